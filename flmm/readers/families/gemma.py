"""Gemma 3 and 4: one grid over the squashed picture, whose tokens see one another both ways.

Sources: arXiv 2503.19786 (Gemma 3: 896 px squares, 256 tokens); the configs and processors of the
published models (Gemma 4: as large as the budget of tokens lets be, the sides in their ratio).
"""

from __future__ import annotations

import math

from torch import Tensor

from flmm.readers.families.base import Family, Seen
from flmm.records import Grid


class Gemma3(Family):
    """Gemma 3 from 4B on; the blank lines around a picture are joined with the template's."""

    model_types = ("gemma3",)
    special = "a picture's tokens see one another both ways, in windows in most layers"

    @property
    def image_token_id(self) -> int:
        """Not the placeholder, which begins a picture."""
        return self.processor.tokenizer.image_token_id

    def check(self) -> None:
        """Also refuse pictures of other lengths than the processor's."""
        super().check()
        of_model, written = self.config.mm_tokens_per_image, self.processor.image_seq_length
        if of_model != written:
            raise ValueError(
                f"the model makes {of_model} tokens of a picture, the processor writes {written}: "
                "load both from the same folder"
            )

    def layout(self, seen: Seen) -> list[Grid]:
        """A square over the picture."""
        cells = self.config.mm_tokens_per_image
        if len(seen.columns) > cells:
            raise ValueError(
                f"the processor adds {len(seen.columns) // cells - 1} crops to the picture, which "
                "flmm does not read: leave do_pan_and_scan out of the image options"
            )
        side = math.isqrt(cells)
        (tokens,) = seen.split(side**2)
        return [Grid(tokens.view(side, side), seen.whole)]

    def token_types(self, input_ids: Tensor) -> dict[str, Tensor]:
        """1: of a picture."""
        return {"token_type_ids": (input_ids == self.config.image_token_id).long()}


class Gemma4(Family):
    """Gemma 4; the last layers of the smaller ones share keys and values of earlier ones."""

    model_types = ("gemma4",)
    special = "a picture's tokens see one another both ways in windows (from 26B-A4B on)"

    def check(self) -> None:
        """Also refuse a processor that cuts other patches."""
        super().check()
        vision, inner = self.config.vision_config, self.processor.image_processor
        for key in ("patch_size", "pooling_kernel_size"):
            of_model, of_processor = getattr(vision, key), getattr(inner, key)
            if of_model != of_processor:
                raise ValueError(
                    f"the model has {key} {of_model}, the processor {of_processor}: load both "
                    "from the same folder"
                )

    def layout(self, seen: Seen) -> list[Grid]:
        """One run, row by row, after pooling."""
        width, height = (seen.inputs["image_position_ids"][0].amax(0) + 1).tolist()
        pool = self.config.vision_config.pooling_kernel_size
        rows, columns = height // pool, width // pool
        (tokens,) = seen.split(rows * columns)
        return [Grid(tokens.view(rows, columns), seen.whole)]

    def token_types(self, input_ids: Tensor) -> dict[str, Tensor]:
        """1: of a picture."""
        return {"mm_token_type_ids": (input_ids == self.config.image_token_id).long()}


__all__ = ["Gemma3", "Gemma4"]
