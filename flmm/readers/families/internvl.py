"""InternVL: the picture squashed onto tiles, and a thumbnail behind them where there are several.

Source: arXiv 2404.16821 (dynamic resolution, pixel shuffle).
"""

from __future__ import annotations

from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from flmm.readers.boxes import REGION_QUESTION, BoxFormat
from flmm.readers.families.base import Family, Seen
from flmm.readers.families.tiles import join_tiles
from flmm.records import Grid


class InternVL(Family):
    """InternVL 2.5, 3 and 3.5 as transformers has them."""

    model_types = ("internvl",)
    num_grids = 2
    special = "the picture squashed onto tiles, then the thumbnail"

    def check(self) -> None:
        """Also refuse tiles of other lengths than the processor's."""
        super().check()
        height, width = self.tile_size
        if height * width != self.written:
            raise ValueError(
                f"the model makes {height} x {width} tokens of a tile, the processor writes "
                f"{self.written}: load both from the same folder"
            )

    @property
    def written(self) -> int:
        """Tokens that the processor writes for a tile."""
        return self.processor.image_seq_length

    @property
    def tile_size(self) -> tuple[int, int]:
        """(h, w) in tokens, after the pixel shuffle."""
        vision, ratio = self.config.vision_config, self.config.downsample_ratio
        height, width = (
            int(side // patch * ratio) for side, patch in zip(vision.image_size, vision.patch_size)
        )
        return height, width

    @property
    def box_format(self) -> BoxFormat:
        """Thousandths of the picture's sides.

        Source: github.com/OpenGVLab/InternVL/issues/227 (question and reply) and 285 (frame).
        Deviation: the phrase stands without ``<ref>`` tags, which plain text cannot write.
        """
        return BoxFormat(REGION_QUESTION)

    def layout(self, seen: Seen) -> list[Grid]:
        """All tiles as one grid, then the thumbnail; or a single tile."""
        height, width = self.tile_size
        cells = height * width
        if len(seen.columns) == cells:
            return [Grid(seen.columns.view(height, width), seen.whole)]
        inner = self.processor.image_processor
        tile = inner.size["height"], inner.size["width"]
        across, down = get_optimal_tiled_canvas(
            seen.size, tile, inner.min_patches, inner.max_patches
        )
        tiles, thumbnail = seen.split(across * down * cells, cells)
        fine = join_tiles(tiles, (down, across), (height, width))
        return [Grid(fine, seen.whole), Grid(thumbnail.view(height, width), seen.whole)]
