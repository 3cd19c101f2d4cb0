"""The embedded toy with a second look at small objects: same weights, sharper masks.

Test:     python tools/test.py configs/tiny/tiny_second_look_shapes.py
Hardware: one CPU core
Expected: refined P@0.9 above 60, mIoU above 87 (see docs/tiny_model.md)
"""

_base_ = ["./tiny_unet_sam_shapes.py"]

model = dict(second_look=dict())
