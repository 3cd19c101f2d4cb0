"""Who is on the page, and what belongs to whom.

A visitor is known by a key that the browser tab made up and keeps while it is open; a conversation
is reached through that key alone, also after a reload or a lost connection. It is dropped soon
after the tab is closed, when the visitor is idle, or when there are too many. Thread-safe.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flmm.apps.web.requests import Limits

if TYPE_CHECKING:
    import numpy as np

    from flmm.conversation import Chat

GRACE_S = 60.0  # a tab that is closed may only have been loaded again
_versions = itertools.count(1)  # one count for all, so that a new conversation is always newer


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
