"""Pixtral's tower: rows of image tokens, a break behind each, over the whole picture resized.

Pixtral 12B is a LLaVA over this tower; Mistral Small 3.1 and 3.2 merge patches besides.
Source: arXiv 2410.07073, section 2 ([IMG BREAK] and [IMG END], sizes of any aspect ratio).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from flmm.readers.families.base import Family, Seen
from flmm.records import Grid


class Pixtral(Family):
    """Pixtral and Mistral 3; the tokens that end a row belong to no grid."""

    model_types = ("mistral3", "llava")
    special = "rows end in a token of their own; any aspect ratio"

    def check(self) -> None:
        """Also refuse a processor that cuts other tokens."""
        super().check()
        merge = getattr(self.config, "spatial_merge_size", 1)
        of_model = self.config.vision_config.patch_size, merge
        names = ("patch_size", "spatial_merge_size")
        of_processor = tuple(getattr(self.processor, name, None) for name in names)
        if of_model != of_processor:
            raise ValueError(
                f"the model has patch size and merge size {of_model}, the processor {of_processor} "
                "(patch_size, spatial_merge_size of processor_config.json): load both from the "
                "same folder"
            )

    def layout(self, seen: Seen) -> list[Grid]:
        """The picture as it was resized, each side by its own factor."""
        side = self.processor.patch_size * self.processor.spatial_merge_size
        height, width = (int(pixels) // side for pixels in seen.inputs["image_sizes"][0])
        (tokens,) = seen.split(height * width)
        if height * width == 1 and self.config.model_type == "mistral3":
            raise ValueError(
                f"the picture of {seen.size[1]} x {seen.size[0]} px is a single image token, on "
                f"which transformers' Mistral 3 fails: give one of more than {side} px"
            )
        return [Grid(tokens.view(height, width), seen.whole)]

    def collate(self, images: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Pictures are padded on the right and below; the model cuts the padding off."""
        sizes = torch.cat([item["image_sizes"] for item in images])
        height, width = sizes.amax(0).tolist()
        pixels = [item["pixel_values"] for item in images]
        return {
            "pixel_values": torch.cat(
                [pad(own, (0, width - own.shape[-1], 0, height - own.shape[-2])) for own in pixels]
            ),
            "image_sizes": sizes,
        }


__all__ = ["Pixtral"]
