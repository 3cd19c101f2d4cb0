"""Aya Vision: tiles and a thumbnail as InternVL sees them, each behind a tag (arXiv 2505.08751)."""

from __future__ import annotations

from flmm.readers.families.base import Family
from flmm.readers.families.internvl import InternVL


class AyaVision(InternVL):
    """Aya Vision; what its processor writes between tiles belongs to no grid."""

    model_types = ("aya_vision",)
    special = "the picture squashed onto tiles behind tags, then the thumbnail"
    box_format = Family.box_format  # no source says how its models name boxes

    @property
    def written(self) -> int:
        """Tokens that the processor writes for a tile."""
        return (self.processor.img_size // self.processor.patch_size) ** 2

    @property
    def tile_size(self) -> tuple[int, int]:
        """(h, w) in tokens, after the pixel shuffle."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size // self.config.downsample_factor
        return side, side
