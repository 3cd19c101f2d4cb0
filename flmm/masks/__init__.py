"""What is trained: the mask head and the mask refiner. No datasets."""

from flmm.masks.mask_head import compute_coarse_logits, count_layers
from flmm.masks.ranked import RankedHead, SharedHead
from flmm.masks.refiners.base import ImageEncoding, Refiner
from flmm.masks.refiners.sam2 import Sam2Refiner
from flmm.masks.refiners.sam_hq import SamHQRefiner
from flmm.masks.refiners.segment_anything import SAMRefiner, build_tiny_sam
from flmm.masks.rules import RuleHead
from flmm.masks.second_look import SecondLook
from flmm.masks.unet import UNetHead

__all__ = [
    "ImageEncoding",
    "RankedHead",
    "Refiner",
    "RuleHead",
    "SAMRefiner",
    "Sam2Refiner",
    "SamHQRefiner",
    "SecondLook",
    "SharedHead",
    "UNetHead",
    "build_tiny_sam",
    "compute_coarse_logits",
    "count_layers",
]
