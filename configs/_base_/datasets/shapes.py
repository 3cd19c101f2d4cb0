"""Synthetic scenes, made by: python tools/make_shapes.py data/shapes --images 4000 --seed 0.

Training draws one sentence per object, validation and test ask every sentence, each isolated.
"""

data_root = "{{$FLMM_DATA_ROOT:data/shapes}}"
dataset = dict(
    type="RefCocoGroundingDataset",
    data_root=data_root,
    data_prefix=dict(img_path="images/"),
    ann_file="instances.json",
    split_file="refs(unc).p",
    image_processor=dict(type="QwenImageProcessorWrapper", processor="tiny"),
)

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="EpochSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
    dataset=dict(split="train", text_mode="random", **dataset),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
    dataset=dict(split="val", text_mode="all", test_mode=True, **dataset),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
    dataset=dict(split="testA", text_mode="all", test_mode=True, **dataset),
)
# What tools/eval_refcoco.py evaluates; the last two where --datasets names them.
eval_datasets = dict(
    shapes=dict(
        ann_file="instances.json", split_file="refs(unc).p", splits=["val", "testA", "testB"]
    ),
    shapes_grefcoco=dict(
        ann_file="grefcoco/instances.json",
        split_file="grefcoco/grefs(unc).json",
        splits=["val", "testA", "testB"],
        protocols=["grefcoco"],
        on_request=True,
    ),
    shapes_reasonseg=dict(
        dataset=dict(type="ReasonSegDataset", data_prefix=dict(img_path="reason_seg/ReasonSeg/")),
        splits=["val", "test"],
        protocols=["reasonseg"],
        on_request=True,
    ),
)
