"""What is trained: the mask head and the mask refiner. No transformers, no datasets."""

from flmm.masks.mask_head import compute_coarse_logits
from flmm.masks.refiners.segment_anything import ImageEncoding, SAMRefiner
from flmm.masks.refiners.tiny_sam import build_tiny_sam
from flmm.masks.unet import UNetHead

__all__ = ["ImageEncoding", "SAMRefiner", "UNetHead", "build_tiny_sam", "compute_coarse_logits"]
