"""Who is on the page, what belongs to whom, and what they may ask for.

A visitor is known by a key that the browser tab made up and keeps while it is open; a conversation
is reached through that key alone, also after a reload or a lost connection. It is dropped soon
after the tab is closed, when the visitor is idle, or when there are too many. Thread-safe.

A request that the page itself never sends is a ``RequestError``; what a visitor may well do, such
as to choose a file that is no picture, is not: the service answers it with a message.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # bounds are asked for before anything heavy is loaded
    import numpy as np

    from flmm.conversation import Chat

# Per action its fields. Numbers are whole and not below zero.
FIELDS: dict[str, dict[str, type]] = {
    "open_sample": {"index": int},
    "open_upload": {"name": str, "data": str},  # of the file, as base64
    "ask": {"question": str, "begin": str, "select": str},  # begin: of the answer; see pointing
    "undo": {},
    "look_from": {"turn": int, "token": int},
    "look_at": {"box": list},  # x0, y0, x1, y1 in pixels of the picture
    "save": {"kind": str},  # "png" or "coco"
    "read": {"since": int},  # version that the browser shows
    "stop": {},
    "leave": {},
}
_KINDS = {int: "a whole number", str: "text", list: "a list of four numbers"}
_GREATEST = 2**53  # that a browser counts to
_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}")
GRACE_S = 60.0  # a tab that is closed may only have been loaded again
_versions = itertools.count(1)  # one count for all, so that a new conversation is always newer


@dataclass(frozen=True)
class Limits:
    """Bounds of the page; one that is zero or less is a ``ValueError``."""

    max_upload_bytes: int = 20 * 2**20
    max_pixels: int = 40_000_000  # of an upload, known before it is decoded
    max_side_px: int = 1600  # pictures with a longer side are shrunk
    max_question_characters: int = 2000
    max_new_tokens: int = 256  # of an answer
    time_limit_s: float = 120.0  # of an answer; what was said by then is kept
    max_visitors: int = 16  # held at once; the one that was idle longest makes room
    idle_s: float = 1800.0  # without a request, then a conversation is dropped
    queue_size: int = 20  # requests that wait at once; further ones are refused

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0:
                raise ValueError(f"the limit {item.name} is {value}: give a number above zero")


class RequestError(ValueError):
    """A request that the page never sends."""


def read_key(text: str | None) -> str:
    """A visitor's key; raises a :class:`RequestError` where it is missing or no key."""
    if text is None or not _KEY.fullmatch(text):
        raise RequestError("the request does not name its visitor: load the page again")
    return text


def read_request(action: str, body: bytes) -> dict[str, Any]:
    """The fields of a request from its body in JSON, all there, of the right types and in range."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the request {action!r} is no JSON: load the page again") from error
    kinds = FIELDS[action]
    if not isinstance(request, dict) or set(request) != set(kinds):
        names = ", ".join(kinds) or "nothing"
        raise RequestError(f"the request {action!r} must hold {names}: load the page again")
    for name, kind in kinds.items():
        if type(request[name]) is not kind or not _is_sound(request[name]):
            raise RequestError(
                f"{name!r} of the request {action!r} is not {_KINDS[kind]}: load the page again"
            )
    return request


def _is_sound(value: Any) -> bool:
    if isinstance(value, int):
        return 0 <= value <= _GREATEST
    if isinstance(value, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in value)  # half a character
    return len(value) == 4 and all(
        type(edge) in (int, float) and math.isfinite(edge) and abs(edge) <= _GREATEST
        for edge in value
    )


@dataclass(eq=False)
class Visitor:
    """A picture, the conversation about it, and what the browser shows of both."""

    chat: Chat
    name: str  # of the picture's file
    picture: int = field(default_factory=lambda: next(_versions))  # what the page calls it
    views: list[dict[str, Any]] = field(default_factory=list)  # of each turn
    # Per turn where its tokens look, float32 [T, h, w]; filled when first needed.
    maps: list[np.ndarray] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)  # the answer is unwanted
    gone: bool = False  # the conversation has been dropped
    version: int = 0  # of the last change of what is shown
    seen_s: float = 0.0  # when something was asked last
    _busy: threading.Lock = field(default_factory=threading.Lock)
    _shown: dict[str, tuple[int, Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """The conversation while it must not change: one request at a time, else ``ValueError``."""
        if not self._busy.acquire(blocking=False):
            raise ValueError("an answer is being written: wait for its end, or stop it")
        try:
            self.stop.clear()
            yield
        finally:
            self._busy.release()

    def show(self, update: dict[str, Any]) -> dict[str, Any]:
        """Remember properties of the page for a browser that asks for them; gives ``update``."""
        with self._lock:
            self.version = next(_versions)
            self._shown.update({name: (self.version, value) for name, value in update.items()})
        return update

    def read(self, since: int) -> dict[str, Any]:
        """Properties that changed after a version, with ``version`` and ``writing``."""
        writing = self._busy.locked()  # asked first: what ends it has been shown before
        with self._lock:
            changed = {name: value for name, (at, value) in self._shown.items() if at > since}
            return {**changed, "version": self.version, "writing": writing}


class Visitors:
    """Visitors by key."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, Visitor] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: str, visitor: Visitor) -> None:
        """Set a visitor's conversation; the one before it, if any, is dropped."""
        with self._lock:
            self._remove(key)
            visitor.seen_s = self._clock()
            self._entries[key] = visitor
            while len(self._entries) > self._limits.max_visitors:
                self._remove(min(self._entries, key=lambda key: self._entries[key].seen_s))

    def find(self, key: str) -> Visitor | None:
        """A visitor's conversation, from now on the last to make room."""
        self.drop_idle()
        with self._lock:
            visitor = self._entries.get(key)
            if visitor is not None:
                visitor.seen_s = self._clock()
            return visitor

    def leave(self, key: str) -> None:
        """A visitor's tab was closed: forget what is there, unless it is asked for soon."""
        with self._lock:
            if key in self._entries:
                early = max(0.0, self._limits.idle_s - GRACE_S)
                self._entries[key].seen_s = self._clock() - early

    def stop_all(self) -> None:
        """End every answer that is being written."""
        with self._lock:
            for visitor in self._entries.values():
                visitor.stop.set()

    def drop_idle(self) -> None:
        """Forget everybody who has been idle for too long."""
        oldest = self._clock() - self._limits.idle_s
        with self._lock:
            for key in [key for key, item in self._entries.items() if item.seen_s < oldest]:
                self._remove(key)

    def _remove(self, key: str) -> None:
        visitor = self._entries.pop(key, None)
        if visitor is not None:
            visitor.gone = True
            visitor.stop.set()
