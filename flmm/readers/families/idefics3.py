"""Idefics3: the picture squashed onto tiles behind tags, then a thumbnail (arXiv 2408.12637)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from flmm.readers.families.base import Family, Seen
from flmm.records import Grid


class Idefics3(Family):
    """Idefics3; what its processor writes between tiles belongs to no grid."""

    model_types = ("idefics3",)
    num_grids = 2
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
    def _side(self) -> int:
        """Of a tile, in tokens, after the pixel shuffle."""
        tile = self.processor.image_processor.max_image_size["longest_edge"]
        return tile // self.config.vision_config.patch_size // self.config.scale_factor

    def layout(self, seen: Seen) -> list[Grid]:
        """All tiles as one grid, then the thumbnail; or the thumbnail alone."""
        side, cells = self._side, self._side**2
        # The tags say how the picture was cut; get_number_of_image_patches is at times wrong.
        before = seen.inputs["input_ids"][0, seen.columns[::cells] - 1]
        tags = "".join(self.processor.tokenizer.convert_ids_to_tokens(before.tolist()))
        places = [
            (int(row), int(column)) for row, column in re.findall(r"row_(\d+)_col_(\d+)", tags)
        ]
        down, across = max(places, default=(0, 0))  # of the last tile
        tiles, thumbnail = seen.split(down * across * cells, cells)
        coarse = Grid(thumbnail.view(side, side), seen.whole)
        if not places:
            return [coarse]
        rows = tiles.view(down, across, side, side).transpose(1, 2)
        return [Grid(rows.reshape(down * side, across * side), seen.whole), coarse]

    def collate(self, images: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """All tiles as one row: the model needs no padding."""
        return {key: torch.cat([item[key] for item in images], dim=1) for key in images[0]}


__all__ = ["Idefics3"]
