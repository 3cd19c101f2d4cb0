"""One question about one picture: name the object, point at it, look again, answer.

Everything is one conversation: the whole picture is read once, then the part.

Source: F-LMM (arXiv 2406.05821), flmm/models/frozen_deepseek_vl.py, ``visual_cot_v1``, ``_v2`` and
``_v3``. As there, the reader answers without its own naming before its eyes, so that v1, v2 and
v3 differ in what they see alone. Deviations: the whole picture is not read again; both pictures
stand before the text; where nothing is pointed at, it is shown once, not twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from flmm.apps.visual_cot.settings import PLACE, VERSIONS, VisualCotSettings
from flmm.conversation import Chat, find_places
from flmm.geometry import Size
from flmm.inferencer import GroundingInferencer
from flmm.records import Span
from flmm.results import GroundedPhrase

Box = tuple[int, int, int, int]
# Longer side over shorter one; image processors refuse pictures from 200 on.
_LONGEST = 100
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[\n;。！？；]")
_AROUND_NAME = " \t\r\n:,.*_`\"'“”‘’：，"


@dataclass(frozen=True, eq=False)
class VisualCotAnswer:
    """An answer, without blanks around it, and the way to it.

    Attributes:
        thought: the object that the reader named (v1), else empty.
        box_xyxy: what was looked at last, in pixels; all of the picture without a mask.
        pointed_box_xyxy: the tight box of the mask; ``None`` where there is none.
        mask: bool ``[H, W]`` of what was pointed at, or ``None``.
        score: mean foreground probability inside the mask, in [0, 1]; 0 without one.
        fallback: why v1 or v2 saw the whole picture alone; ``None`` where it did not.
        end_reason: of the answer: ``"end"``, or ``"max_new_tokens"`` or ``"context"`` (cut).
    """

    thought: str
    answer: str
    box_xyxy: Box
    pointed_box_xyxy: tuple[float, ...] | None
    mask: np.ndarray | None = field(repr=False)
    score: float
    fallback: str | None
    end_reason: str | None


# What the reader named, where that is, and why there is no mask.
_Pointing = tuple[str, GroundedPhrase | None, str | None]


class VisualCot:
    """Answers questions about pictures in one of F-LMM's three ways.

    Args:
        version: "v1": name the relevant object, point at the name; "v2": point with the whole
            question; both look again at what they point at. "v3": the plain answer.
    """

    def __init__(
        self,
        inferencer: GroundingInferencer,
        version: str = "v1",
        settings: VisualCotSettings | None = None,
    ) -> None:
        if version not in VERSIONS:
            raise ValueError(f"there is no version {version!r}: choose of {', '.join(VERSIONS)}")
        self.inferencer = inferencer
        self.version = version
        self.settings = settings or VisualCotSettings()

    @torch.inference_mode()
    def __call__(self, image: Any, question: str) -> VisualCotAnswer:
        """Answer a plain question about a picture as ``GroundingInferencer.chat`` takes it.

        Raises:
            TypeError, FileNotFoundError, ValueError: the picture cannot be read, the question is
                blank, or the model's context is full.
        """
        if not question.strip():
            raise ValueError(f"the question is {question!r}: give at least one word")
        chat = self.inferencer.chat(image, selectors=())
        pointing = ("", None, None) if self.version == "v3" else self._point(chat, question)
        return self._answer(chat, question, pointing)

    def _point(self, chat: Chat, question: str) -> _Pointing:
        """The mask of the object's name as the reader wrote it, or of the question's own words."""
        settings, is_named = self.settings, self.version == "v1"
        if is_named:
            turn = chat.ask(
                settings.naming_prompt.replace(PLACE, question),
                max_new_tokens=settings.max_thought_tokens,
                begin=settings.naming_begin,
            )
            text, span = turn.text, find_name(turn.text, len(settings.naming_begin))
        else:
            turn = chat.ask(question, max_new_tokens=0)
            text, span = question, (0, len(question))
        try:
            if span is None:
                return "", None, "the reader named no object"
            words = text[slice(*span)]
            thought = words if is_named else ""
            places = find_places(turn.tokens, "answer" if is_named else "question", span)
            if places is None:
                return thought, None, f"{words!r} has no token of its own"
            (found,) = chat.ground(chat.look([places])[0], 0, [words])
            if found.is_empty:
                return thought, None, f"the mask of {words!r} is empty"
            return thought, found, None
        finally:
            chat.undo()

    def _answer(self, chat: Chat, question: str, pointing: _Pointing) -> VisualCotAnswer:
        settings, picture = self.settings, chat.images[0].image
        height, width = picture.shape[:2]
        box: Box = (0, 0, width, height)
        pointed_box, prompt = None, settings.answer_prompt
        images: list[np.ndarray] = []
        thought, found, fallback = pointing
        if found is not None:
            pointed_box = tuple(found.box_xyxy.tolist())
            size = (height, width)
            box = compute_crop_box(pointed_box, size, settings.crop_scale, settings.min_crop_px)
            prompt = settings.second_look_prompt
            images = [np.ascontiguousarray(picture[box[1] : box[3], box[0] : box[2]])]
        prompt = prompt.replace(PLACE, question)
        turn = chat.ask(prompt, images, max_new_tokens=settings.max_new_tokens)
        return VisualCotAnswer(
            thought=thought,
            answer=turn.text.strip(),
            box_xyxy=box,
            pointed_box_xyxy=pointed_box,
            mask=None if found is None else found.mask,
            score=0.0 if found is None else found.score,
            fallback=fallback,
            end_reason=turn.end_reason,
        )


def find_name(text: str, start: int) -> Span | None:
    """Characters of the first sentence behind ``start``, without marks around it.

    F-LMM stops writing at the first full stop; here what follows it is left out afterwards.
    ``None``: the sentence holds no letter or digit.
    """
    start += len(text[start:]) - len(text[start:].lstrip(_AROUND_NAME))
    end = _SENTENCE_END.search(text, start)
    name = text[start : end.start() if end else len(text)].rstrip(_AROUND_NAME)
    if not any(character.isalnum() for character in name):
        return None
    return start, start + len(name)


def compute_crop_box(
    box_xyxy: Sequence[float], image_size: Size, scale: float = 1.0, min_side: int = 16
) -> Box:
    """The part of a picture around a box, which it always contains; whole pixels.

    Args:
        box_xyxy: right and bottom exclusive, within the picture of ``image_size`` (H, W).
        scale: sides of the part over sides of the box, about its centre; at least 1.
        min_side: the least side, as far as the picture has it.

    Source: F-LMM, flmm/models/frozen_deepseek_vl.py (``mask2box``). Deviations: right and bottom
    are exclusive, so that the mask's last row and column are shown; at the picture's border the
    part moves inwards instead of falling below ``min_side``; no part is longer than readers take.
    """
    height, width = image_size
    x0, y0, x1, y1 = box_xyxy
    longest = max(x1 - x0, y1 - y0) * scale
    least = max(min_side, math.ceil(longest / _LONGEST))
    left, right = _grow(x0, x1, width, scale, least)
    top, bottom = _grow(y0, y1, height, scale, least)
    return left, top, right, bottom


def _grow(low: float, high: float, size: int, scale: float, least: int) -> tuple[int, int]:
    """An edge pair grown about its centre, in whole pixels within ``[0, size]``."""
    center, half = (low + high) / 2, (high - low) * scale / 2
    start, end = max(0, math.floor(center - half)), min(size, math.ceil(center + half))
    missing = min(least, size) - (end - start)
    if missing > 0:
        start = min(max(0, start - missing // 2), size - min(least, size))
        end = start + min(least, size)
    return start, end
