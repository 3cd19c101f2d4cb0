r"""The tiny model's keyword selector, trained on captions; the other weights stay, bit for bit.

Data:     python tools/make_shapes.py data/shapes --images 4000 --seed 0
Train:    python tools/train.py configs/tiny/tiny_keywords_shapes.py
Ship:     python tools/make_tiny_model.py head flmm/assets/tiny_head \
            --start work_dirs/tiny_keywords_shapes/iter_500.pth
Hardware: one CPU core, 5 minutes
Expected: val cIoU 86.2 as before; keyword_recall and keyword_precision above 0.9 at the end. Hits
          in captions that the tiny reader writes: docs/conversation.md
"""

_base_ = ["./tiny_unet_sam_shapes.py"]
custom_imports = dict(imports=["flmm.toy.shape_captions"])

load_from = "tiny"
model = dict(keyword_selector=dict(frozen=False))
processor = dict(image_processor={{_base_.dataset.image_processor}})
narratives = dict(
    type="PanopticNarrativeDataset",
    data_root="{{$FLMM_DATA_ROOT:data/shapes}}",
    data_prefix=dict(img_path="images/", panoptic_path="panoptic_train/"),
    ann_file="png_train.json",
    panoptic_json="panoptic_train.json",
    **processor,
)
lists = dict(type="ShapeListDataset", num_scenes=3400, seed=1, **processor)
both = dict(_delete_=True, type="ConcatDataset", datasets=[narratives, lists])
train_dataloader = dict(batch_size=4, dataset=both)
# A single layer that begins at zero takes large steps, everything else none.
others = {name: dict(lr_mult=0) for name in ("mask_head", "sam", "text_proj", "text_layer_weights")}
custom_keys = dict(keyword_selector=dict(lr_mult=10), **others)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=custom_keys))
warm_up = dict(type="LinearLR", start_factor=1e-5, by_epoch=False, begin=0, end=30)
cosine = dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=30, end=500)
param_scheduler = [warm_up, cosine]
train_cfg = dict(max_iters=500, val_interval=500)
