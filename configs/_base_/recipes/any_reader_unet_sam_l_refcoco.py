"""``unet_sam_l_refcoco`` with a reader of any family; a leaf names its ``reader``."""

_base_ = ["unet_sam_l_refcoco.py"]

pictures = dict(image_processor=dict(type="ImageProcessorWrapper"))
model = dict(type="Grounder", model=dict(type="FrozenVLM"))
train_dataloader = dict(dataset=pictures)
val_dataloader = dict(dataset=pictures)
test_dataloader = dict(dataset=pictures)
