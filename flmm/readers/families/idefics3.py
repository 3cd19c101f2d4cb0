"""Idefics3 and SmolVLM: the picture squashed onto tiles behind tags, then a thumbnail.

Sources: arXiv 2408.12637 (Idefics3), 2504.05299 (SmolVLM).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from flmm.geometry import Size, place_region
from flmm.readers.families.base import Family, Seen
from flmm.readers.families.tiles import cover_tiles, join_tiles
from flmm.records import Box, Grid


class Idefics3(Family):
    """Idefics3 and SmolVLM; what their processor writes between tiles belongs to no grid."""

    model_types = ("idefics3", "smolvlm")
    num_grids = 2
    special = "tiles behind tags <row_r_col_c>, then the thumbnail"
    # Tiles are of one size: the mask would be all ones.
    image_options: ClassVar[Mapping[str, Any]] = {"do_pad": False}

    def check(self) -> None:
        """Also refuse tiles of other lengths than the processor's."""
        super().check()
        if self._side**2 != self.processor.image_seq_len:
            raise ValueError(
                f"the model makes {self._side} x {self._side} tokens of a tile, the processor "
                f"writes {self.processor.image_seq_len}: load both from the same folder"
            )

    @property
    def _tile_px(self) -> int:
        """A tile's side."""
        return self.processor.image_processor.max_image_size["longest_edge"]

    @property
    def _token_px(self) -> int:
        """A token's side, after the pixel shuffle."""
        return self.config.vision_config.patch_size * self.config.scale_factor

    @property
    def _side(self) -> int:
        """Of a tile in tokens."""
        return self._tile_px // self._token_px

    def layout(self, seen: Seen) -> list[Grid]:
        """All tiles as one grid, then the thumbnail; or the thumbnail alone."""
        side, cells = self._side, self._side**2
        tiles = self._count_tiles(seen.inputs["input_ids"][0])
        fine, thumbnail = seen.split(tiles[0] * tiles[1] * cells, cells)
        coarse = Grid(thumbnail.view(side, side), self._cover((1, 1), seen.size))
        if not len(fine):
            return [coarse]
        return [Grid(join_tiles(fine, tiles, (side, side)), self._cover(tiles, seen.size)), coarse]

    def _count_tiles(self, input_ids: Tensor) -> Size:
        """(down, across) as the tags say; get_number_of_image_patches is at times wrong.

        A tag is one token, or (Idefics3-8B) several.
        """
        written = input_ids[input_ids != self.config.image_token_id]
        tags = re.findall(r"<row_(\d+)_col_(\d+)>", self.processor.tokenizer.decode(written))
        return max(((int(row), int(column)) for row, column in tags), default=(0, 0))

    def _cover(self, tiles: Size, size: Size) -> Box:
        """What the cells of tiles cover, in pixels of the picture that was squashed onto them."""
        region = cover_tiles(tiles, self._tile_px, self._side * self._token_px)
        return place_region(region, (tiles[0] * self._tile_px, tiles[1] * self._tile_px), size)

    def collate(self, images: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """All tiles as one row: the model needs no padding."""
        return {key: torch.cat([item[key] for item in images], dim=1) for key in images[0]}


__all__ = ["Idefics3"]
