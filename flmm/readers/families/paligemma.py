"""PaliGemma 1 and 2: picture and prompt see one another both ways, what follows is causal.

Sources: arXiv 2407.07726 (section 3.1: prefix and suffix), arXiv 2412.03555.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flmm.readers.boxes import BoxFormat
from flmm.readers.families.base import Family, Seen
from flmm.records import Grid


class PaliGemma(Family):
    """PaliGemma, over Gemma or Gemma 2; a prompt begins with a task, as in ``caption en``."""

    model_types = ("paligemma",)
    # Its models know tasks: ai.google.dev/gemma/docs/paligemma/prompt-system-instructions.
    prompt = "caption en"
    special = "the prompt changes the picture's states: another question is another reading"
    converses = False
    max_pictures = 1
    prompt_changes_image = True
    suffix_type = 1

    def check(self) -> None:
        """Also refuse pictures of other lengths than the processor's."""
        super().check()
        written = self.processor.image_seq_length
        if self._side**2 != written:
            raise ValueError(
                f"the model makes {self._side} x {self._side} tokens of a picture, the processor "
                f"writes {written}: load both from the same folder"
            )

    @property
    def _side(self) -> int:
        vision = self.config.vision_config
        return vision.image_size // vision.patch_size

    @property
    def box_format(self) -> BoxFormat:
        """Location tokens, each of 1024 on a side.

        Source: arXiv 2407.07726, section 3.2.1 and appendix on detection; the released
        ``big_vision/configs/proj/paligemma/README.md``.
        """
        return BoxFormat("detect {phrase}", side=1024.0, location_tokens=True)

    def layout(self, seen: Seen) -> list[Grid]:
        """A square over the squashed picture."""
        side = math.isqrt(len(seen.columns))
        (tokens,) = seen.split(side**2)
        return [Grid(tokens.view(side, side), seen.whole)]

    def render(self, images: int, is_first: bool) -> tuple[str, str]:
        """As the processor writes it: there is no chat template."""
        begin = self.processor.tokenizer.bos_token
        return f"{self.placeholder * images}{begin}", "\n"

    def write_for_processor(self, prompt: str) -> str:
        """The processor writes the beginning token and the newline."""
        return f"{self.placeholder}{prompt}"

    def cut_picture(self, input_ids: Tensor) -> Tensor:
        """The image tokens: what follows belongs to the prompt."""
        return input_ids[input_ids == self.config.image_token_id]

    def locate(
        self, model: Any, input_ids: Sequence[int], images: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Counting up from 1."""
        return torch.arange(1, len(input_ids) + 1)[None]

    def token_types(self, input_ids: Tensor) -> dict[str, Tensor]:
        """0: of the prefix, whose tokens see one another."""
        return {"token_type_ids": torch.zeros_like(input_ids)}


__all__ = ["PaliGemma"]
