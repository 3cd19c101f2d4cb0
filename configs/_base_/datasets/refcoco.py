"""RefCOCO (unc) in F-LMM's folders.

Under data/coco: train2014/ (images), refcoco/instances.json, refcoco/refs(unc).p, and for
tools/eval_refcoco.py the same of refcoco+ and refcocog, grefcoco/ and reason_seg/;
``docs/data.md`` has the whole list.

Training draws one sentence per ref and joins an image's phrases, as F-LMM does; validation and
test follow the standard protocol: every sentence of every ref, each isolated. A record that cannot
be used is skipped and counted. The image processor is that of the config's ``reader``.

Batches are per process. 8 images a step are F-LMM's; its recipe has 8 GPUs with one image each:
``--cfg-options train_dataloader.batch_size=1`` on 8 processes. The mean is over all phrases of a
step, so that both are the same step. Within a batch the reader reads images of similar token
counts together. What tools/eval_*.py read together is ``test_dataloader.batch_size`` too, unless
``--batch-size`` says otherwise.
"""

data_root = "{{$FLMM_DATA_ROOT:data/coco/}}"
dataset = dict(
    type="RefCocoGroundingDataset",
    data_root=data_root,
    data_prefix=dict(img_path="train2014/"),
    ann_file="refcoco/instances.json",
    split_file="refcoco/refs(unc).p",
    image_processor=dict(type="ImageProcessorWrapper"),
    bad_records="skip",
)

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,  # pixels go to the GPU while it works
    sampler=dict(type="EpochSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
    dataset=dict(split="train", text_mode="random", joined=True, max_expressions=16, **dataset),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
    dataset=dict(split="val", text_mode="all", test_mode=True, **dataset),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
    dataset=dict(split="testA", text_mode="all", test_mode=True, **dataset),
)
# What tools/eval_refcoco.py evaluates: the eight splits that papers print, and where --datasets
# names them gRefCOCO and ReasonSeg, each under its own protocol.
eval_datasets = {
    "refcoco": dict(
        ann_file="refcoco/instances.json",
        split_file="refcoco/refs(unc).p",
        splits=["val", "testA", "testB"],
    ),
    "refcoco+": dict(
        ann_file="refcoco+/instances.json",
        split_file="refcoco+/refs(unc).p",
        splits=["val", "testA", "testB"],
    ),
    "refcocog": dict(
        ann_file="refcocog/instances.json",
        split_file="refcocog/refs(umd).p",
        splits=["val", "test"],
    ),
    "grefcoco": dict(
        ann_file="grefcoco/instances.json",
        split_file="grefcoco/grefs(unc).json",
        splits=["val", "testA", "testB"],
        protocols=["grefcoco"],
        on_request=True,
    ),
    "reasonseg": dict(
        dataset=dict(type="ReasonSegDataset", data_prefix=dict(img_path="reason_seg/ReasonSeg/")),
        splits=["val", "test"],
        protocols=["reasonseg"],
        on_request=True,
    ),
}
