"""CogVLM and CogVLM2: the squashed picture as a square of tokens between two border tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flmm.readers.boxes import BoxFormat
from flmm.readers.families.base import Family, Seen
from flmm.readers.own_models.cogvlm import locate_tokens
from flmm.records import Grid


class CogVLM(Family):
    """Both generations, by a module of our own: see ``readers/own_models``."""

    model_types = ("cogvlm",)
    special = "experts for pictures and for text in every layer; a picture's cells share a position"
    max_pictures = 1

    def check(self) -> None:
        """Also refuse weights of few bits, a processor of other sizes, and padding as a picture.

        A model that goes on with the text, as the grounding ones, answers single questions.
        """
        super().check()
        if getattr(self.config, "quantization_config", None):
            raise ValueError(
                "this CogVLM is quantised to few bits, whose weights flmm does not convert: give "
                "one in bfloat16"
            )
        vision, processor = self.config.vision_config, self.processor
        tokens, side = vision.num_tokens, processor.image_processor.size["height"]
        if (tokens, vision.image_size) != (processor.image_seq_length, side):
            raise ValueError(
                f"the model makes {tokens} tokens of {vision.image_size} px, the processor "
                f"{processor.image_seq_length} of {side} px: load both from the same folder"
            )
        if processor.tokenizer.pad_token_id == self.config.image_token_id:
            raise ValueError(
                f"the tokenizer pads with {processor.image_token!r}, which stands for a part of a "
                "picture: set its pad_token to its eos_token"
            )
        self.converses = self.config.template_version != "base"

    @property
    def box_format(self) -> BoxFormat:
        """Thousandths of the sides, of the models that are made for it.

        Source: utils/utils/template.py (caption2box) and README.md of github.com/THUDM/CogVLM;
        zai-org/CogVLM/issues/231 (which models), zai-org/CogVLM2/issues/45 (CogVLM2 names none).
        """
        if self.config.template_version == "base":
            return BoxFormat("Where is {phrase}? answer in [[x0,y0,x1,y1]] format.")
        return super().box_format

    def layout(self, seen: Seen) -> list[Grid]:
        """One grid; the first and the last token are no part of it."""
        side = self.config.vision_config.grid_side
        _, tokens, _ = seen.split(1, side**2, 1)
        return [Grid(tokens.view(side, side), seen.whole)]

    def locate(
        self, model: Any, input_ids: Sequence[int], images: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """All cells of a picture at one place, its border tokens counted as text."""
        return locate_tokens(torch.tensor([list(input_ids)]) == self.config.image_token_id)
