"""LLaVA-1.5: one square of image tokens over the padded picture, or over its centre as published.

Sources: arXiv 2310.03744 (padding); the processor of the published models crops the centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import LlavaImageProcessor
from transformers.image_transforms import get_resize_output_image_size

from flmm.geometry import Size, place_region
from flmm.readers.boxes import REGION_QUESTION, BoxFormat
from flmm.readers.families.base import Family, Seen
from flmm.records import Grid


class Llava(Family):
    """LLaVA with a CLIP or SigLIP tower."""

    model_types = ("llava",)
    special = "one square: the centre of the picture, or the picture padded"

    @property
    def box_format(self) -> BoxFormat:
        """Shares of the sides of the square that it sees, padding included.

        Source: github.com/haotian-liu/LLaVA/issues/606.
        """
        return BoxFormat(REGION_QUESTION, side=1.0)

    def choose_image_processor(self, options: Mapping[str, Any]) -> Any:
        """The published class knows no ``do_pad``."""
        pads = options.get("do_pad")
        return LlavaImageProcessor if pads else super().choose_image_processor(options)

    def layout(self, seen: Seen) -> list[Grid]:
        """The tokens are a grid over what the processor padded or cropped to."""
        inner, (height, width) = self.processor.image_processor, seen.size
        frame, top, left = seen.size, 0, 0
        if hasattr(inner, "pad_to_square") and inner.do_pad:
            side = max(height, width)
            frame, top, left = (side, side), (side - height) // 2, (side - width) // 2
        resized = _resize(frame, inner.size)
        patch = self.config.vision_config.patch_size
        cropped = seen.inputs["pixel_values"].shape[-2:]
        rows, columns = cropped[0] // patch, cropped[1] // patch
        y, x = (int((side - kept) / 2) for side, kept in zip(resized, cropped))
        region = (x, y, x + columns * patch, y + rows * patch)
        x0, y0, x1, y1 = place_region(region, resized, frame)
        (tokens,) = seen.split(rows * columns)
        return [Grid(tokens.view(rows, columns), (x0 - left, y0 - top, x1 - left, y1 - top))]


def _resize(frame: Size, size: dict[str, int]) -> Size:
    """(h, w) to which the image processor resizes."""
    if size.get("height"):
        return size["height"], size["width"]
    blank = np.broadcast_to(np.uint8(0), (1, *frame))
    edge = size["shortest_edge"]
    return get_resize_output_image_size(
        blank, edge, default_to_square=False, input_data_format="channels_first"
    )
