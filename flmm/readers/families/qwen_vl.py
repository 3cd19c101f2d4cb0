"""Qwen-VL of the first generation: the squashed picture as a square of a resampler's queries."""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from flmm.readers.boxes import BoxFormat
from flmm.readers.families.base import Family, Seen
from flmm.records import Grid


class QwenVL(Family):
    """Qwen-VL and Qwen-VL-Chat, by a module of our own: see ``readers/own_models``.

    ``image_options=dict(map_over="patches")`` (``"tokens"`` if nothing is said) takes each map of
    16 x 16 image tokens to the 32 x 32 patches that they looked at. In a config the data sets'
    ``image_processor`` is told too: ``dict(type="ImageProcessorWrapper", map_over="patches")``. It
    costs 1 MiB for each picture that is held, and maps four times as large.
    """

    model_types = ("qwen_vl",)
    special = (
        "256 queries of a resampler stand for the picture, maps over its 32 x 32 patches by "
        '`map_over="patches"`; 2,048 tokens of context'
    )
    own_options: ClassVar[tuple[str, ...]] = ("map_over",)

    def check(self) -> None:
        """Also refuse weights of few bits, and a processor of other lengths."""
        super().check()
        if getattr(self.config, "quantization_config", None):
            raise ValueError(
                "this Qwen-VL is quantised to few bits, whose weights flmm does not convert: give "
                "Qwen/Qwen-VL-Chat or Qwen/Qwen-VL"
            )
        queries = self.config.vision_config.num_queries
        if queries != self.processor.image_seq_length:
            raise ValueError(
                f"the model makes {queries} tokens of a picture, the processor writes "
                f"{self.processor.image_seq_length}: load both from the same folder"
            )
        if self._map_over not in ("tokens", "patches"):
            raise ValueError(
                f"map_over {self._map_over!r} is not known: give 'tokens' or 'patches'"
            )

    @property
    def _map_over(self) -> str:
        return getattr(self.processor.image_processor, "map_over", "tokens")

    @property
    def over_patches(self) -> bool:
        """If the option says so."""
        return self._map_over == "patches"

    @property
    def box_format(self) -> BoxFormat:
        """From 0 to 999 along each side.

        Source: github.com/QwenLM/Qwen-VL/issues/233 (question) and eval_mm/evaluate_grounding.py
        (999). Deviation: its evaluation writes ``<ref>phrase</ref><box>``, which plain text cannot.
        """
        return BoxFormat("Generate the bounding box of {phrase}", side=999.0)

    def layout(self, seen: Seen) -> list[Grid]:
        """One grid."""
        side = math.isqrt(len(seen.columns))
        (columns,) = seen.split(side**2)
        tokens = columns.view(side, side)
        if self.over_patches:
            cells = seen.inputs["pixel_values"].shape[-1] // self.config.vision_config.patch_size
            places = torch.arange(cells) * side // cells
            tokens = tokens[places][:, places]
        return [Grid(tokens, seen.whole)]
