"""Control: the same head trained on a reader of random weights; it must fail.

Train:    python tools/train.py configs/tiny/tiny_random_reader_unet_sam_shapes.py
Hardware: two CPU cores, about 12 minutes
Expected: val cIoU 28.8, mIoU 28.8: what marking any object gives (see docs/tiny_model.md)
"""

_base_ = ["./tiny_unet_sam_shapes.py"]

model = dict(model=dict(random_init=True, seed=0))
weights = None
