"""``unet_sam_l_refcoco`` with SAM-HQ ViT-L as the refiner, see docs/refiners.md."""

_base_ = ["unet_sam_l_refcoco.py"]

model = dict(
    sam=dict(_delete_=True, type="SamHQRefiner", name_or_path="syscv-community/sam-hq-vit-large")
)
