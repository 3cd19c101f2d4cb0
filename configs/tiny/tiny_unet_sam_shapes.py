"""The embedded tiny reader, its mask head and tiny SAM on synthetic scenes.

Data:     python tools/make_shapes.py data/shapes --images 4000 --seed 0
Train:    python tools/train.py configs/tiny/tiny_unet_sam_shapes.py
Test:     python tools/test.py configs/tiny/tiny_unet_sam_shapes.py [CHECKPOINT]
Hardware: two CPU cores, about 12 minutes
Expected: val cIoU 86.2, mIoU 82.7; coarse cIoU 63.9, mIoU 59.4 (seed 0)
"""

_base_ = [
    "../_base_/models/tiny.py",
    "../_base_/datasets/shapes.py",
    "../_base_/schedules/adamw_tiny.py",
    "../_base_/default_runtime.py",
]

default_hooks = dict(checkpoint=dict(interval=100), logger=dict(interval=10))
# What inference and testing use when no checkpoint is given; training starts without it.
weights = "tiny"
