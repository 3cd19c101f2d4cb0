"""Qwen-VL of the first generation: the squashed picture as a square of a resampler's queries."""

from __future__ import annotations

import math

from flmm.readers.boxes import BoxFormat
from flmm.readers.families.base import Family, Seen
from flmm.records import Grid


class QwenVL(Family):
    """Qwen-VL and Qwen-VL-Chat, by a module of our own: see ``readers/own_models``."""

    model_types = ("qwen_vl",)
    special = "256 queries of a resampler stand for the picture; 2,048 tokens of context"

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
        (tokens,) = seen.split(side**2)
        return [Grid(tokens.view(side, side), seen.whole)]
