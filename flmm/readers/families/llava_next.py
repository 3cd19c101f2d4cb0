"""LLaVA-NeXT and LLaVA-OneVision: tiles as one grid without its padding, and a thumbnail.

The thumbnail stands first in the sequence, a newline token behind each row of the tiles. Sources:
llava-vl.github.io/blog/2024-01-30-llava-next; arXiv 2408.03326 (OneVision's anyres_max: a grid that
is too large is shrunk).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.models.llava_next.modeling_llava_next import unpad_image

from flmm.geometry import Size, place_region
from flmm.readers.families.base import Family, Seen
from flmm.readers.families.tiles import cover_tiles
from flmm.records import Grid

# A grid is shrunk where it has so many times the side that its model agrees to.
_SHRUNK_FROM = 1.1


class LlavaNext(Family):
    """LLaVA-NeXT, also called LLaVA-1.6."""

    model_types = ("llava_next",)
    num_grids = 2
    special = "tiles without their padding, a newline token behind each row; the thumbnail first"

    def check(self) -> None:
        """Also refuse tiles of other sizes than the processor's, and another choice of tokens."""
        super().check()
        for name, of_model, of_processor in self._list_settings():
            if of_model != of_processor:
                raise ValueError(
                    f"the model has {name} {of_model}, the processor {of_processor}: load both "
                    "from the same folder"
                )

    def _list_settings(self) -> Iterator[tuple[str, Any, Any]]:
        """(name, of the model, of the processor) of what both must agree on."""
        processor, inner = self.processor, self.processor.image_processor
        sides = inner.crop_size or inner.size
        yield "tiles of (px)", self.config.vision_config.image_size, sides["height"]
        sizes = (self.config.image_grid_pinpoints, inner.image_grid_pinpoints)
        of_model, of_processor = ([list(size) for size in own] for own in sizes)
        yield "image_grid_pinpoints", of_model, of_processor
        name = "vision_feature_select_strategy"
        yield name, getattr(self.config, name), getattr(processor, name)

    @property
    def _side(self) -> int:
        """Of a tile in tokens."""
        vision = self.config.vision_config
        return vision.image_size // vision.patch_size

    def layout(self, seen: Seen) -> list[Grid]:
        """All tiles as one grid, then the thumbnail."""
        tile, side = self.config.vision_config.image_size, self._side
        seen_px = side * self.config.vision_config.patch_size
        best = select_best_resolution(seen.size, self.config.image_grid_pinpoints)
        down, across = (room // tile for room in best)
        canvas = torch.arange(down * side * across * side).view(1, down * side, across * side)
        cells = unpad_image(canvas, seen.size)[0]
        rows, columns = self._shrink(*cells.shape)
        thumbnail, fine = seen.split(side**2, rows * (columns + 1))
        region = cover_tiles((1, 1), tile, seen_px)
        grid = Grid(thumbnail.view(side, side), place_region(region, (tile, tile), seen.size))
        if not cells.numel():  # a line of a few pixels, which unpadding leaves nothing of
            return [grid]
        blank = np.broadcast_to(np.uint8(0), (1, *seen.size))
        resized = get_patch_output_size(blank, best, "channels_first")
        top, left = ((room - size) // 2 for room, size in zip(best, resized))
        x0, y0, x1, y1 = cover_tiles((down, across), tile, seen_px)
        width, height = (x1 - x0) / canvas.shape[2], (y1 - y0) / canvas.shape[1]
        row, column = divmod(int(cells[0, 0]), canvas.shape[2])
        x, y = x0 + column * width - left, y0 + row * height - top
        region = (x, y, x + cells.shape[1] * width, y + cells.shape[0] * height)
        box = place_region(region, resized, seen.size)
        return [Grid(fine.view(rows, columns + 1)[:, :-1], box), grid]

    def _shrink(self, rows: int, columns: int) -> Size:
        """(h, w) in tokens of what is left of so many cells without padding: all of them."""
        return rows, columns

    def collate(self, images: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pictures with fewer tiles are padded; the model drops the padding."""
        tiles = [item["pixel_values"][0] for item in images]
        others = [
            {name: value for name, value in item.items() if name != "pixel_values"}
            for item in images
        ]
        return {"pixel_values": pad_sequence(tiles, batch_first=True), **super().collate(others)}


class LlavaOnevision(LlavaNext):
    """LLaVA-OneVision. Of several pictures it would see squares without tiles: it reads one."""

    model_types = ("llava_onevision",)
    special = "tiles as LLaVA-NeXT's, more of them, shrunk where they are too many"
    max_pictures = 1

    def _list_settings(self) -> Iterator[tuple[str, Any, Any]]:
        """Also how far a grid is shrunk, and the tokens of a tile."""
        yield from super()._list_settings()
        processor, name = self.processor, "vision_aspect_ratio"
        yield name, getattr(self.config, name), getattr(processor, name)
        left_out = processor.vision_feature_select_strategy == "default"
        yield "tokens per tile", self._side**2, processor.num_image_tokens - left_out

    def _shrink(self, rows: int, columns: int) -> Size:
        most = int(self.config.vision_aspect_ratio.removeprefix("anyres_max_"))
        ratio = math.sqrt(rows * columns / most) / self._side
        return (
            (int(rows // ratio), int(columns // ratio)) if ratio > _SHRUNK_FROM else (rows, columns)
        )
