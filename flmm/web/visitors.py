"""Who is on the page, and what belongs to whom.

A visitor is known by the key of the browser tab's session, which no other tab knows; a picture and
its conversation are reached through that key alone. They are dropped when the visitor leaves, is
idle, or when there are too many. Safe to use from several threads.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flmm.conversation import Chat
from flmm.web.limits import Limits


@dataclass(eq=False)
class Visitor:
    """A picture and the conversation about it.

    Attributes:
        chat: the conversation.
        name: of the picture's file.
        picture: what the browser calls the picture.
        views: per turn what the browser shows of it.
        maps: per turn where its tokens look, float32 ``[T, h, w]``; filled when first needed.
        busy: held while an answer is written.
        stop: set when the answer that is written is no longer wanted.
        gone: whether the conversation has been dropped.
    """

    chat: Chat
    name: str
    picture: Any = 0
    views: list[dict[str, Any]] = field(default_factory=list)
    maps: list[np.ndarray] = field(default_factory=list)
    busy: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    gone: bool = False


class Visitors:
    """Visitors by key, the one that was idle longest first.

    Args:
        limits: its ``max_visitors`` and ``idle_s`` are used.
        clock: gives the time in seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[float, Visitor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: str, visitor: Visitor) -> None:
        """Set a visitor's conversation; the one before it, if any, is dropped."""
        with self._lock:
            self._remove(key)
            self._entries[key] = (self._clock(), visitor)
            while len(self._entries) > self._limits.max_visitors:
                self._remove(next(iter(self._entries)))

    def find(self, key: str) -> Visitor | None:
        """A visitor's conversation, from now on the last to make room; ``None``: there is none."""
        self.drop_idle()
        with self._lock:
            if key not in self._entries:
                return None
            _, visitor = self._entries.pop(key)
            self._entries[key] = (self._clock(), visitor)
            return visitor

    def drop(self, key: str) -> None:
        """Forget a visitor, if known; an answer that is being written ends."""
        with self._lock:
            self._remove(key)

    def drop_idle(self) -> None:
        """Forget everybody who has been idle for too long."""
        oldest = self._clock() - self._limits.idle_s
        with self._lock:
            for key in [key for key, (seen, _) in self._entries.items() if seen < oldest]:
                self._remove(key)

    def _remove(self, key: str) -> None:
        _, visitor = self._entries.pop(key, (0.0, None))
        if visitor is not None:
            visitor.gone = True
            visitor.stop.set()


__all__ = ["Visitor", "Visitors"]
