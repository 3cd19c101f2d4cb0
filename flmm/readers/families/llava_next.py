"""LLaVA-NeXT: tiles as one grid without its padding, a newline token behind each row; a thumbnail.

The thumbnail stands first in the sequence. Source: llava-vl.github.io/blog/2024-01-30-llava-next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.models.llava_next.modeling_llava_next import unpad_image

from flmm.geometry import place_region
from flmm.readers.families.base import Family, Seen
from flmm.records import Grid


class LlavaNext(Family):
    """LLaVA-NeXT, also called LLaVA-1.6."""

    model_types = ("llava_next",)
    num_grids = 2

    def check(self) -> None:
        """Also refuse tiles of other sizes than the processor's."""
        super().check()
        sizes = (
            self.config.image_grid_pinpoints,
            self.processor.image_processor.image_grid_pinpoints,
        )
        of_model, of_processor = ([list(size) for size in own] for own in sizes)
        if of_model != of_processor:
            raise ValueError(
                f"the model takes tiles of {of_model}, the processor cuts {of_processor} "
                "(image_grid_pinpoints): load both from the same folder"
            )

    def layout(self, seen: Seen) -> list[Grid]:
        """All tiles as one grid, then the thumbnail."""
        patch = self.config.vision_config.patch_size
        side = self.config.vision_config.image_size // patch
        best = select_best_resolution(seen.size, self.config.image_grid_pinpoints)
        canvas = torch.arange(best[0] // patch * (best[1] // patch)).view(1, -1, best[1] // patch)
        cells = unpad_image(canvas, seen.size)[0]
        rows, columns = cells.shape
        thumbnail, fine = seen.split(side**2, rows * (columns + 1))
        grid = Grid(thumbnail.view(side, side), seen.whole)
        if not cells.numel():  # a line of a few pixels, which unpadding leaves nothing of
            return [grid]
        blank = np.broadcast_to(np.uint8(0), (1, *seen.size))
        resized = get_patch_output_size(blank, best, "channels_first")
        top, left = ((room - size) // 2 for room, size in zip(best, resized))
        row, column = divmod(int(cells[0, 0]), canvas.shape[2])
        x, y = column * patch - left, row * patch - top
        box = place_region((x, y, x + columns * patch, y + rows * patch), resized, seen.size)
        return [Grid(fine.view(rows, columns + 1)[:, :-1], box), grid]

    def collate(self, images: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pictures with fewer tiles are padded; the model drops the padding."""
        tiles = [item["pixel_values"][0] for item in images]
        return {
            "pixel_values": pad_sequence(tiles, batch_first=True),
            "image_sizes": torch.cat([item["image_sizes"] for item in images]),
        }
