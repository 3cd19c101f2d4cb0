"""What is said to the reader, and how much of the picture it is shown again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

VERSIONS = ("v1", "v2", "v3")
PLACE = "{question}"
# The instruction of LLaVA-1.5 (Liu et al., 2023) for short answers, which F-LMM uses too.
_BRIEFLY = "Answer the question using a single word or phrase."


@dataclass(frozen=True)
class VisualCotSettings:
    """Prompts and limits; a config's ``visual_cot = dict(...)`` overrides them.

    Attributes:
        naming_prompt: of v1, asks which object matters; ``{question}`` stands for the question.
        naming_begin: the words that the reader's reply to it begins with.
        second_look_prompt: the question again, behind the whole picture and its part.
        answer_prompt: the question, behind the whole picture alone.
        max_thought_tokens: the longest name of an object.
        crop_scale: sides of the part that is shown, over those of the mask's box; at least 1.
        min_crop_px: the least side of that part, in pixels of the picture.

    Source: F-LMM, flmm/models/frozen_deepseek_vl.py (``visual_cot_v1``) and
    scripts/visual_cot/visual_cot_inference.py: the same steps, lengths and scale, in our words.
    """

    naming_prompt: str = (
        "{question}\nFirst say which object in the image matters most for this question."
    )
    naming_begin: str = "The most relevant object is"
    second_look_prompt: str = (
        "The first image is the whole picture, the second is the part of it that may help with "
        "the question: {question}\n" + _BRIEFLY
    )
    answer_prompt: str = "{question}\n" + _BRIEFLY
    max_thought_tokens: int = 16
    max_new_tokens: int = 32
    crop_scale: float = 1.0
    min_crop_px: int = 16

    def __post_init__(self) -> None:
        for name in ("naming_prompt", "second_look_prompt", "answer_prompt"):
            if PLACE not in getattr(self, name):
                raise ValueError(f"visual_cot.{name} has no {PLACE}: write it where it belongs")
        for name in ("max_thought_tokens", "max_new_tokens", "crop_scale", "min_crop_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"visual_cot.{name} is {getattr(self, name)}: give at least 1")


def build_settings(values: Mapping[str, Any]) -> VisualCotSettings:
    """Settings from a config's ``visual_cot``; ValueError for an unknown key."""
    names = [field.name for field in fields(VisualCotSettings)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(f"visual_cot has no {', '.join(unknown)}: its keys are {', '.join(names)}")
    return VisualCotSettings(**values)
