"""The tiny head taught phrases of several objects; scenes that are asked for none and for several.

Train:    python tools/train.py configs/tiny/tiny_several_shapes.py
Test:     python tools/test.py configs/tiny/tiny_several_shapes.py [CHECKPOINT]
Hardware: one CPU core, 11 minutes
Expected: objects of phrases of several counted right in 68 % (docs/presence.md)
"""

_base_ = ["./tiny_unet_sam_shapes.py"]
custom_imports = dict(imports=["flmm.toy.shape_expressions"])

load_from = "tiny"
model = dict(presence=dict(type="PresenceRule", rule="tiny"))
expressions = dict(
    type="ShapeExpressionDataset", image_processor={{_base_.dataset.image_processor}}
)
several = dict(_delete_=True, num_scenes=4000, seed=1, absent=False, most_single=2, **expressions)
train_dataloader = dict(dataset=several)
test_dataloader = dict(dataset=dict(_delete_=True, num_scenes=600, seed=2, **expressions))
test_evaluator = dict(type="GRefSegMetric")
optim_wrapper = dict(optimizer=dict(lr=5e-4))
warm_up = dict(type="LinearLR", start_factor=1e-5, by_epoch=False, begin=0, end=10)
cosine = dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=10, end=500)
param_scheduler = [warm_up, cosine]
train_cfg = dict(max_iters=500, val_interval=500)
