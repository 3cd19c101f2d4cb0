"""``unet_sam_l_refcoco`` with SAM 2.1-L as the refiner, see docs/refiners.md."""

_base_ = ["unet_sam_l_refcoco.py"]

model = dict(
    sam=dict(_delete_=True, type="Sam2Refiner", name_or_path="facebook/sam2.1-hiera-large")
)
