"""Fuyu: patches of the picture go straight into the decoder, a newline token behind each row.

There is no vision tower and no chat template. Source: adept.ai/blog/fuyu-8b.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer, models, processors
from torch import Tensor

from flmm.geometry import place_region
from flmm.readers.families.base import Family, Seen
from flmm.records import Grid

BEGIN, ANSWER = "<s>", "<0x04>"  # before the prompt, and behind it


class Fuyu(Family):
    """Fuyu-8B; one picture and one question."""

    model_types = ("fuyu",)
    prompt = "Generate a coco-style caption.\n"  # of the model's page
    special = "no vision tower; rows end in a token of their own"
    converses = False
    max_pictures = 1
    # Otherwise the processor hands over patches that the model drops in silence.
    image_options: ClassVar[Mapping[str, Any]] = {"return_legacy_image_output": False}

    def check(self) -> None:
        """Also refuse patches of other sizes than the model's."""
        super().check()
        cut = self.processor.image_processor.patch_size
        if {cut["height"], cut["width"]} != {self.config.patch_size}:
            raise ValueError(
                f"the model has patch size {self.config.patch_size}, the processor "
                f"{cut['height']} x {cut['width']}: load both from the same folder"
            )

    @property
    def picture_text(self) -> str:
        """The processor writes the placeholder itself."""
        return ""

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The processor's, with its marks as control tokens, which are pieces like any word there.

        It writes nothing before a text: the processor does without.
        """
        tokenizer = copy.deepcopy(self.processor.tokenizer)
        marks = [self.placeholder, self.processor.image_newline_token, BEGIN, ANSWER]
        tokenizer.add_tokens(marks, special_tokens=True)
        backend = tokenizer.backend_tokenizer
        backend.post_processor = processors.Sequence([])
        _forget_pieces(backend, set(tokenizer.get_added_vocab()))
        return tokenizer

    def layout(self, seen: Seen) -> list[Grid]:
        """Whole patches over the picture, which stands at their top left, padded with white."""
        inner, (height, width) = self.processor.image_processor, seen.size
        limit, side = inner.size, self.config.patch_size
        scale = min(1.0, limit["height"] / height, limit["width"] / width)
        resized = int(height * scale), int(width * scale)
        rows, columns = (-(-pixels // side) for pixels in resized)
        (tokens,) = seen.split(rows * columns)
        box = place_region((0, 0, columns * side, rows * side), resized, seen.size)
        return [Grid(tokens.view(rows, columns), box)]

    def render(self, images: int, is_first: bool) -> tuple[str, str]:
        """As the processor writes it."""
        return f"{self.placeholder * images}{BEGIN}", ANSWER

    def write_for_processor(self, prompt: str) -> str:
        """The processor writes what stands around the prompt."""
        return prompt

    def cut_picture(self, input_ids: Tensor) -> Tensor:
        """Up to the newline of the last row."""
        (newlines,) = torch.where(input_ids == self.processor.image_newline_id)
        return input_ids[: int(newlines[-1]) + 1]


def _forget_pieces(backend: Tokenizer, pieces: set[str]) -> None:
    """Keep plain text from spelling these pieces; every id stays."""
    model = json.loads(backend.to_str())["model"]
    if model["type"] == "Unigram":
        vocabulary = [
            (f"\ue000{piece}" if piece in pieces else piece, score)
            for piece, score in model["vocab"]
        ]
        backend.model = models.Unigram(vocabulary, model["unk_id"], model["byte_fallback"])


__all__ = ["Fuyu"]
