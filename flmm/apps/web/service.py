"""The page without a browser: requests of visitors in, updates of what they see out.

Whatever goes wrong becomes a message, and the conversation stays as it was. The model takes one
step at a time; between two tokens of one visitor's answer another's picture may be read.
"""

from __future__ import annotations

import base64
import logging
import math
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from flmm.apps.explanation.reading import compute_region_coverage
from flmm.apps.explanation.tokens import list_tokens
from flmm.apps.web.pictures import Picture, draw_samples, read_upload
from flmm.apps.web.pointing import (
    compute_excess,
    find_selectors,
    look_from_token,
    rank_words,
    read_turn_maps,
)
from flmm.apps.web.requests import Limits
from flmm.apps.web.views import (
    LOOK_COLOR,
    TINT,
    build_download,
    build_picture_view,
    build_turn_view,
    encode_heat,
)
from flmm.apps.web.visitors import Visitor, Visitors
from flmm.inferencer import GroundingInferencer
from flmm.results import encode_areas

Update = dict[str, Any]
_SHOWN_WORDS = 12
_END_NOTES = {
    "max_new_tokens": "The answer was cut after {limits.max_new_tokens} tokens.",
    "context": "The answer was cut: the model's context is full.",
}
_logger = logging.getLogger(__name__)


class PageService:
    """Serves visitors with one model; ``samples`` are pictures to begin with."""

    def __init__(self, inferencer: GroundingInferencer, limits: Limits | None = None) -> None:
        self.inferencer = inferencer
        self.limits = limits or Limits()
        self.samples = draw_samples()
        self.visitors = Visitors(self.limits)
        self._step = threading.Lock()

    def answer(self, key: str, action: str, request: Update) -> Iterator[Update]:
        """Changed properties of the page; an answer's as it grows. Never raises an ``Exception``.

        Of the actions of ``flmm.apps.web.requests.FIELDS`` "read", "stop" and "leave", which wait
        for nobody, are the server's.
        """
        try:
            if action == "ask":
                yield from self._ask(key, **request)
            else:
                yield getattr(self, f"_{action}")(key, **request)
        except Exception as error:
            yield _explain(action, error)

    def stop(self, key: str) -> None:
        """End the answer that is written to a visitor; what was said is kept."""
        visitor = self.visitors.find(key)
        if visitor is not None:
            visitor.stop.set()

    def _open_sample(self, key: str, index: int) -> Update:
        if index >= len(self.samples):
            raise ValueError(f"there is no sample {index}: choose one that the page shows")
        return self._open(key, self.samples[index])

    def _open_upload(self, key: str, name: str, data: str) -> Update:
        try:
            content = base64.b64decode(data, validate=True)
        except ValueError as error:
            raise ValueError("the upload was damaged on its way: try again") from error
        return self._open(key, read_upload(content, name, self.limits))

    def _open(self, key: str, picture: Picture) -> Update:
        """Read a picture; only then the conversation before it ends."""
        with self._step:
            chat = self.inferencer.chat(picture.image)
        visitor = Visitor(chat, picture.name)
        shown = {"picture": build_picture_view(picture, visitor.picture), "draft": {}}
        visitor.show({**shown, **self._show_turns(visitor), **_tell(picture.note)})
        self.visitors.put(key, visitor)
        return {**visitor.read(0), "look": {}}

    def _ask(self, key: str, question: str, begin: str, select: str) -> Iterator[Update]:
        visitor, longest = self._find(key), self.limits.max_question_characters
        if max(len(question), len(begin)) > longest:
            raise ValueError(f"the question is longer than {longest} characters: shorten it")
        stream = visitor.chat.stream(
            question,
            select=find_selectors(select),
            max_new_tokens=self.limits.max_new_tokens,
            begin=begin,
        )
        with visitor.hold():
            draft = {"picture": visitor.picture, "question": question}
            visitor.show({"draft": {**draft, "text": ""}, **_tell("")})
            yield {**visitor.read(visitor.version - 1), "look": {}}
            try:
                note = yield from self._write(visitor, draft, stream)
            except Exception as error:
                yield visitor.show({"draft": {}, **_explain("ask", error)})
                return
            if not visitor.gone:
                yield visitor.show({**self._show_turns(visitor, note), "draft": {}})

    def _write(
        self, visitor: Visitor, draft: Update, stream: Generator[str, None, None]
    ) -> Generator[Update, None, str]:
        """The answer as it grows; returns why it was stopped, if it was."""
        deadline = time.monotonic() + self.limits.time_limit_s
        text = ""
        try:
            while True:
                with self._step:
                    piece = next(stream, None)
                if piece is None:
                    return ""
                text += piece
                if not visitor.gone:
                    yield visitor.show({"draft": {**draft, "text": text}})
                if visitor.stop.is_set():
                    return "You stopped the answer here."
                if time.monotonic() > deadline:
                    return f"The answer was cut after {self.limits.time_limit_s:g} seconds."
        finally:  # also where nobody asks for the next update any more
            with self._step:
                stream.close()

    def _show_turns(self, visitor: Visitor, note: str = "") -> Update:
        """The turns so far; ``note`` is about the last."""
        for turn in visitor.chat.turns[len(visitor.views) :]:
            end = _END_NOTES.get(turn.end_reason or "", "").format(limits=self.limits)
            sentences = [note or end, *turn.notes]
            visitor.views.append(build_turn_view(turn, " ".join(filter(None, sentences))))
        return {"turns": {"picture": visitor.picture, "items": list(visitor.views)}}

    def _undo(self, key: str) -> Update:
        visitor = self._find(key)
        with visitor.hold():
            visitor.chat.undo()
            del visitor.views[len(visitor.chat.turns) :]
            del visitor.maps[len(visitor.chat.turns) :]
            return {**visitor.show({**self._show_turns(visitor), **_tell("")}), "look": {}}

    def _look_from(self, key: str, turn: int, token: int) -> Update:
        visitor = self._find(key)
        with visitor.hold():
            turns = visitor.chat.turns
            if turn >= len(turns) or token >= len(turns[turn].tokens):
                raise ValueError("this word is no longer part of the conversation")
            chosen = turns[turn].tokens[token]
            with self._step:
                all_heads, best_heads, mask = look_from_token(visitor.chat, chosen)
        layers = {
            "all": encode_heat(all_heads, mask.shape),
            "best": encode_heat(best_heads, mask.shape),
            "mask": encode_areas(mask, LOOK_COLOR, TINT),
        }
        place = {"turn": turn, "token": token, "text": chosen.text.strip()}
        return {"look": {"kind": "token", **place, "layers": layers}}

    def _look_at(self, key: str, box: list[float]) -> Update:
        visitor = self._find(key)
        chat = visitor.chat
        size = chat.images[0].original_size
        region = _cut_box(box, *size)
        with visitor.hold():
            if not chat.turns:
                raise ValueError("there are no words yet: ask something first")
            for turn in range(len(visitor.maps), len(chat.turns)):
                with self._step:
                    visitor.maps.append(read_turn_maps(chat, turn))
            tokens, maps = list_tokens(chat.turns), np.concatenate(visitor.maps)
        coverage = compute_region_coverage(size, (maps.shape[1], maps.shape[2]), region)
        words = [(word.token, word.excess) for word in rank_words(tokens, maps, coverage)]
        excess = compute_excess(tokens, maps, coverage)
        found = {
            "box": region,
            "share": float(coverage.mean()),
            "words": [
                {"text": item.text, "role": item.role, "turn": item.turn, "excess": own}
                for item, own in words[:_SHOWN_WORDS]
                if own > 0
            ],
            "excess": [[round(value, 4) for value in row] for row in excess],
        }
        return {"look": {"kind": "region", **found}}

    def _save(self, key: str, kind: str) -> Update:
        visitor = self._find(key)
        with visitor.hold():
            turns = list(visitor.chat.turns)
        if not any(turn.phrases for turn in turns):
            raise ValueError("there are no masks yet: ask something first")
        size = visitor.chat.images[0].original_size
        name, content = build_download(turns, visitor.name, size, kind)
        return {"saved": {"name": name, "data": base64.b64encode(content).decode("ascii")}}

    def _find(self, key: str) -> Visitor:
        visitor = self.visitors.find(key)
        if visitor is None:
            raise ValueError(
                "There is no picture here (a conversation is put away after "
                f"{self.limits.idle_s / 60:g} idle minutes, or when many others came): choose one "
                "to begin"
            )
        return visitor


def _tell(text: str, kind: str = "note") -> Update:
    """A message to the visitor; an empty one takes the last away."""
    text = text[:1].upper() + text[1:]
    return {"message": {"text": text[:600], "kind": kind}}


def _explain(action: str, error: Exception) -> Update:
    """What the visitor reads about an error; what nobody thought of goes to the log alone."""
    if isinstance(error, (ValueError, ImportError)):
        return _tell(str(error), "error")
    _logger.error("the request %r failed", action, exc_info=error)
    text = "Something went wrong with this request; the page goes on. Try another one."
    return _tell(text, "error")


def _cut_box(edges: list[float], height: int, width: int) -> list[int]:
    """[x0, y0, x1, y1] in whole pixels within the picture, at least one pixel each way."""
    left, right = sorted(min(max(edge, 0), width) for edge in edges[::2])
    top, bottom = sorted(min(max(edge, 0), height) for edge in edges[1::2])
    box = [math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)]
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError("the box is empty: draw it across the picture")
    return box
