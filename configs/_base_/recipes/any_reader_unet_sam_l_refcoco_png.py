"""``unet_sam_l_refcoco_png`` with a reader of any family; a leaf names its ``reader``."""

_base_ = ["unet_sam_l_refcoco_png.py"]

model = dict(type="Grounder", model=dict(type="FrozenVLM"))
