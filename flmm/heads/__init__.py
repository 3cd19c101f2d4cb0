"""What is trained: the mask head and the mask refiner. No transformers, no datasets."""

from flmm.heads.mask_head import compute_coarse_logits
from flmm.heads.sam import ImageEncoding, SAMRefiner
from flmm.heads.tiny_sam import build_tiny_sam
from flmm.heads.unet import UNetHead

__all__ = ["ImageEncoding", "SAMRefiner", "UNetHead", "build_tiny_sam", "compute_coarse_logits"]
