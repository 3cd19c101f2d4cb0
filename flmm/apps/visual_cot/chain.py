"""One question about one picture: name the object, point at it, look again, answer.

In: an inferencer, a picture, a question. Out: the reader's own greedy answer and, on the way to
it, what it named, where that is and which part of the picture it was shown again. Everything is
one conversation: the whole picture is read once, then the part. Not its duty: files, scores.

Source: F-LMM (arXiv 2406.05821), flmm/models/frozen_deepseek_vl.py, ``visual_cot_v1``, ``_v2`` and
``_v3``. As there, the reader answers without its own naming before its eyes, so that v1, v2 and
v3 differ in what they see alone. Deviations: the whole picture is not read again; both pictures
stand before the text; where nothing is pointed at, it is shown once, not twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from flmm.apps.visual_cot.crops import Box, compute_crop_box
from flmm.apps.visual_cot.settings import PLACE, VERSIONS, VisualCotSettings
from flmm.conversation import Chat, find_places
from flmm.inferencer import GroundingInferencer
from flmm.records import Span
from flmm.results import GroundedPhrase

_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[\n;。！？；]")
_AROUND_NAME = " \t\r\n:,.*_`\"'“”‘’：，"


@dataclass(frozen=True, eq=False)
class VisualCotAnswer:
    """An answer and the way to it.

    Attributes:
        thought: the object that the reader named (v1), else empty.
        answer: its answer, without blanks around it.
        box_xyxy: the part of the picture that it looked at last, in pixels; the whole picture in
            v3 and where nothing could be pointed at.
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


@dataclass(frozen=True, eq=False)
class _Pointing:
    """Where words look; ``fallback`` says why there is no mask."""

    thought: str = ""
    found: GroundedPhrase | None = None
    fallback: str | None = None


class VisualCot:
    """Answers questions about pictures in one of F-LMM's three ways.

    Args:
        inferencer: the model.
        version: "v1": name the relevant object, point at the name; "v2": point with the whole
            question; both look again at what they point at. "v3": the plain answer.
        settings: prompts and limits.

    Raises:
        ValueError: there is no such version.
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
        pointing = _Pointing() if self.version == "v3" else self._point(chat, question)
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
                return _Pointing(fallback="the reader named no object")
            words = text[slice(*span)]
            thought = words if is_named else ""
            places = find_places(turn.tokens, "answer" if is_named else "question", span)
            if places is None:
                return _Pointing(thought, fallback=f"{words!r} has no token of its own")
            (found,) = chat.ground(chat.look([places])[0], 0, [words])
            if found.is_empty:
                return _Pointing(thought, fallback=f"the mask of {words!r} is empty")
            return _Pointing(thought, found)
        finally:
            chat.undo()

    def _answer(self, chat: Chat, question: str, pointing: _Pointing) -> VisualCotAnswer:
        picture = chat.images[0].image
        height, width = picture.shape[:2]
        box: Box = (0, 0, width, height)
        pointed_box, prompt = None, self.settings.answer_prompt
        images: list[np.ndarray] = []
        found = pointing.found
        if found is not None:
            pointed_box = tuple(found.box_xyxy.tolist())
            scale, min_side = self.settings.crop_scale, self.settings.min_crop_px
            box = compute_crop_box(pointed_box, (height, width), scale, min_side)
            prompt = self.settings.second_look_prompt
            images = [np.ascontiguousarray(picture[box[1] : box[3], box[0] : box[2]])]
        turn = chat.ask(
            prompt.replace(PLACE, question),
            images=images,
            max_new_tokens=self.settings.max_new_tokens,
        )
        return VisualCotAnswer(
            thought=pointing.thought,
            answer=turn.text.strip(),
            box_xyxy=box,
            pointed_box_xyxy=pointed_box,
            mask=None if found is None else found.mask,
            score=0.0 if found is None else found.score,
            fallback=pointing.fallback,
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
