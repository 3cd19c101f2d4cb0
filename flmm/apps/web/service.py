"""The page without a browser: requests of visitors in, updates of what they see out.

In: requests as ``flmm.apps.web.requests`` reads them. Whatever goes wrong becomes a message, and
the conversation stays as it was. The model takes one step at a time; between two tokens of one
visitor's answer another visitor's picture may be read.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from flmm.apps.explanation.regions import compute_region_coverage
from flmm.apps.explanation.tokens import list_tokens
from flmm.apps.web.downloads import build_coco, build_name, build_zip
from flmm.apps.web.drawing import encode_heat, encode_tint
from flmm.apps.web.limits import Limits
from flmm.apps.web.pictures import Picture, describe_large_file, draw_samples, read_upload
from flmm.apps.web.pointing import compute_excess, look_from_token, rank_words, read_turn_maps
from flmm.apps.web.selecting import find_selectors
from flmm.apps.web.views import LOOK_COLOR, build_picture_view, build_turn_view
from flmm.apps.web.visitors import Visitor, Visitors
from flmm.inferencer import GroundingInferencer

Update = dict[str, Any]
_SHOWN_WORDS = 12
_END_NOTES = {
    "max_new_tokens": "The answer was cut after {limits.max_new_tokens} tokens.",
    "context": "The answer was cut: the model's context is full.",
}
_logger = logging.getLogger(__name__)


class PageService:
    """Serves visitors with one model.

    Args:
        inferencer: the model.
        limits: what a visitor may ask for.

    Attributes:
        samples: pictures to begin with.
        visitors: who is there.
    """

    def __init__(self, inferencer: GroundingInferencer, limits: Limits | None = None) -> None:
        self.inferencer = inferencer
        self.limits = limits or Limits()
        self.samples = draw_samples()
        self.visitors = Visitors(self.limits)
        self._step = threading.Lock()
        self._actions: dict[str, Callable[[str, Update], Iterator[Update]]] = {
            "open_sample": self._open_sample,
            "open_upload": self._open_upload,
            "ask": self._ask,
            "undo": self._undo,
            "look_from": self._look_from,
            "look_at": self._look_at,
            "save": self._save,
        }

    def answer(self, key: str, action: str, request: Update) -> Iterator[Update]:
        """Serve one request.

        Args:
            key: the visitor's.
            action: ``"open_sample"``, ``"open_upload"``, ``"ask"``, ``"undo"``, ``"look_from"``,
                ``"look_at"`` or ``"save"``.
            request: what it needs, see ``flmm.apps.web.requests.FIELDS``.

        Yields:
            changed properties of the page; never raises an ``Exception``.
        """
        try:
            yield from self._actions[action](key, request)
        except Exception as error:
            yield _explain(action, error)

    def stop(self, key: str) -> None:
        """End the answer that is written to a visitor; what was said is kept."""
        visitor = self.visitors.find(key)
        if visitor is not None:
            visitor.stop.set()

    # -- pictures --------------------------------------------------------------------------

    def _open_sample(self, key: str, request: Update) -> Iterator[Update]:
        if request["index"] >= len(self.samples):
            raise ValueError(
                f"there is no sample {request['index']}: choose one that the page shows"
            )
        yield self._open(key, self.samples[request["index"]])

    def _open_upload(self, key: str, request: Update) -> Iterator[Update]:
        name, text = request["name"], request["data"]
        size_bytes = len(text) * 3 // 4
        if size_bytes > self.limits.max_upload_bytes + 2:
            raise ValueError(describe_large_file(name, size_bytes, self.limits))
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise ValueError("the upload was damaged on its way: try again") from error
        yield self._open(key, read_upload(data, name, self.limits))

    def _open(self, key: str, picture: Picture) -> Update:
        """Read a picture; only then the conversation before it ends."""
        with self._step:
            chat = self.inferencer.chat(picture.image)
        visitor = Visitor(chat, picture.name)
        shown = {"picture": build_picture_view(picture, visitor.picture), "draft": {}}
        visitor.show({**shown, **self._show_turns(visitor), **_tell(picture.note)})
        self.visitors.put(key, visitor)
        return {**visitor.read(0), "look": {}}

    # -- conversation ----------------------------------------------------------------------

    def _ask(self, key: str, request: Update) -> Iterator[Update]:
        visitor, question, begin = self._find(key), request["question"], request["begin"]
        longest = self.limits.max_question_characters
        if max(len(question), len(begin)) > longest:
            raise ValueError(f"the question is longer than {longest} characters: shorten it")
        pieces = visitor.chat.stream(
            question,
            select=find_selectors(request["select"]),
            max_new_tokens=self.limits.max_new_tokens,
            begin=begin,
        )
        stream = cast("Generator[str, None, None]", pieces)
        with _Hold(visitor):
            visitor.show({**self._show_draft(visitor, question), **_tell("")})
            yield {**visitor.read(visitor.version - 1), "look": {}}
            try:
                note = yield from self._write(visitor, question, stream)
            except Exception as error:
                yield visitor.show({"draft": {}, **_explain("ask", error)})
                return
            if not visitor.gone:
                yield visitor.show({**self._show_turns(visitor, note), "draft": {}})

    def _write(
        self, visitor: Visitor, question: str, stream: Generator[str, None, None]
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
                    yield visitor.show(self._show_draft(visitor, question, text))
                if visitor.stop.is_set():
                    return "You stopped the answer here."
                if time.monotonic() > deadline:
                    return f"The answer was cut after {self.limits.time_limit_s:g} seconds."
        finally:  # also where nobody asks for the next update any more
            with self._step:
                stream.close()

    def _show_draft(self, visitor: Visitor, question: str, text: str = "") -> Update:
        return {"draft": {"picture": visitor.picture, "question": question, "text": text}}

    def _show_turns(self, visitor: Visitor, note: str = "") -> Update:
        """The turns so far; ``note`` is about the last."""
        for turn in visitor.chat.turns[len(visitor.views) :]:
            end = _END_NOTES.get(turn.end_reason or "", "").format(limits=self.limits)
            sentences = [note or end, *turn.notes]
            visitor.views.append(build_turn_view(turn, " ".join(filter(None, sentences))))
        return {"turns": {"picture": visitor.picture, "items": list(visitor.views)}}

    def _undo(self, key: str, request: Update) -> Iterator[Update]:
        visitor = self._find(key)
        with _Hold(visitor):
            visitor.chat.undo()
            del visitor.views[len(visitor.chat.turns) :]
            del visitor.maps[len(visitor.chat.turns) :]
            yield {**visitor.show({**self._show_turns(visitor), **_tell("")}), "look": {}}

    # -- looking ---------------------------------------------------------------------------

    def _look_from(self, key: str, request: Update) -> Iterator[Update]:
        visitor, number, index = self._find(key), request["turn"], request["token"]
        with _Hold(visitor):
            turns = visitor.chat.turns
            if number >= len(turns) or index >= len(turns[number].tokens):
                raise ValueError("this word is no longer part of the conversation")
            token = turns[number].tokens[index]
            with self._step:
                look = look_from_token(visitor.chat, token)
            size = visitor.chat.images[0].original_size
            layers = {
                "all": encode_heat(look.all_heads, size),
                "best": encode_heat(look.best_heads, size),
                "mask": encode_tint(look.mask, LOOK_COLOR),
            }
        place = {"turn": number, "token": index, "text": token.text.strip()}
        yield {"look": {"kind": "token", **place, "layers": layers}}

    def _look_at(self, key: str, request: Update) -> Iterator[Update]:
        visitor = self._find(key)
        chat = visitor.chat
        height, width = chat.images[0].original_size
        box = _cut_box(request["box"], width, height)
        with _Hold(visitor):
            if not chat.turns:
                raise ValueError("there are no words yet: ask something first")
            for turn in range(len(visitor.maps), len(chat.turns)):
                with self._step:
                    visitor.maps.append(read_turn_maps(chat, turn))
            tokens, maps = list_tokens(chat.turns), np.concatenate(visitor.maps)
            grid = (maps.shape[1], maps.shape[2])
            coverage = compute_region_coverage((height, width), grid, box)
            words = rank_words(tokens, maps, coverage)
            excess = compute_excess(tokens, maps, coverage)
        found = {
            "box": box,
            "share": float(coverage.mean()),
            "words": [asdict(word) for word in words[:_SHOWN_WORDS] if word.excess > 0],
            "excess": [[round(value, 4) for value in row] for row in excess],
        }
        yield {"look": {"kind": "region", **found}}

    # -- downloads -------------------------------------------------------------------------

    def _save(self, key: str, request: Update) -> Iterator[Update]:
        visitor = self._find(key)
        with _Hold(visitor):
            turns = list(visitor.chat.turns)
            size = visitor.chat.images[0].original_size
        if not any(turn.phrases for turn in turns):
            raise ValueError("there are no masks yet: ask something first")
        coco = build_coco(turns, visitor.name, size)
        if request["kind"] == "coco":
            data, ending = json.dumps(coco, ensure_ascii=False).encode(), "json"
        else:
            data, ending = build_zip(turns, coco), "zip"
        text = base64.b64encode(data).decode("ascii")
        yield {"saved": {"name": build_name(visitor.name, ending), "data": text}}

    def _find(self, key: str) -> Visitor:
        visitor = self.visitors.find(key)
        if visitor is None:
            raise ValueError(
                "There is no picture here (a conversation is put away after "
                f"{self.limits.idle_s / 60:g} idle minutes, or when many others came): choose one "
                "to begin"
            )
        return visitor


class _Hold:
    """A visitor's conversation while it must not change: one request at a time.

    Raises:
        ValueError: another one is going on.
    """

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor

    def __enter__(self) -> None:
        if not self._visitor.busy.acquire(blocking=False):
            raise ValueError("an answer is being written: wait for its end, or stop it")
        self._visitor.stop.clear()

    def __exit__(self, *_: object) -> None:
        self._visitor.busy.release()


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


def _cut_box(edges: list[float], width: int, height: int) -> list[int]:
    """[x0, y0, x1, y1] in whole pixels within the picture, at least one pixel each way."""
    x0, y0, x1, y1 = edges
    left, right = sorted((min(max(x0, 0), width), min(max(x1, 0), width)))
    top, bottom = sorted((min(max(y0, 0), height), min(max(y1, 0), height)))
    box = [int(left), int(top), int(right + 0.999), int(bottom + 0.999)]
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError("the box is empty: draw it across the picture")
    return box


__all__ = ["PageService", "Update"]
