"""One pass at a time through a frozen model, whatever threads and readers share it.

The attention of a transformers model is a field of its config, which all its layers and all who
use it share: a pass that needs another one changes the field, and nobody else may run meanwhile.
Conversations change with every question: each has a lock of its own. Processes that fork are the
other half: see ``docs/concurrency.md``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch

from flmm.readers.attention import ROW_ATTENTION


class ModelGuard:
    """Lets one thread at a time run a model, through the attention that its pass needs.

    Passes of one thread may nest: Python closes a forgotten stream wherever it collects garbage,
    and the turn of that stream is then finished in the middle of another pass.

    Args:
        config: of the language model; its layers read their attention there.

    Attributes:
        lock: re-entrant, held during every pass; hold it around what else changes the model.
    """

    def __init__(self, config: Any) -> None:
        self.lock = threading.RLock()
        self._config = config
        self._own: Any = None  # the attention that the model has when nobody reads rows
        self._thread: tuple[int, int] | None = None  # that is in a pass, and in how many

    @property
    def in_pass(self) -> bool:
        """Whether this very thread is in the middle of a pass."""
        return self._thread is not None and self._thread[0] == threading.get_ident()

    @property
    def depth(self) -> int:
        """Passes that are going on, one within the other."""
        return 0 if self._thread is None else self._thread[1]

    def run(self, call: Callable[..., Any], attention: str | None = None, **inputs: Any) -> Any:
        """One pass of ``call``; whatever ends it, the model is then as it was before.

        ``attention`` is a name of transformers' ``AttentionInterface``; ``None``: the model's own.
        """
        config = self._config
        with self.lock:
            outer, depth, before = self._thread, self.depth, config._attn_implementation
            if before != ROW_ATTENTION:
                self._own = before
            elif outer is None:  # Ctrl-C struck while the last pass put it back
                before = self._own
            try:
                self._thread = threading.get_ident(), depth + 1
                config._attn_implementation = attention or self._own
                return call(**inputs)
            finally:  # the plain assignment first: in the other one Ctrl-C may strike
                self._thread = outer
                config._attn_implementation = before


class _Passing(Protocol):
    """What runs a model."""

    @property
    def in_pass(self) -> bool:
        """Whether this very thread is in the middle of a pass."""
        ...


class ConversationBusyError(RuntimeError):
    """A conversation is in use elsewhere, where waiting for it could last for ever."""


class ConversationLock:
    """Lets one thread at a time work with a conversation; the others wait. Re-entrant.

    A copy of a conversation has a lock of its own.
    """

    def __init__(self, reader: _Passing) -> None:
        self._reader = reader
        self._lock = threading.RLock()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return ConversationLock, (self._reader,)

    def __enter__(self) -> None:
        """Wait for the conversation.

        Raises:
            ConversationBusyError: it is not free, and its user may wait for this very thread (to
                end a pass), or did not come along into this forked process.
        """
        may_wait = not self._reader.in_pass and self._process == os.getpid()
        if not self._lock.acquire(blocking=may_wait):
            raise ConversationBusyError(
                "this conversation is in use by another thread, which cannot be waited for here: "
                "give each thread and each process a conversation of its own"
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()


# By the identity of the config: all who share it share the guard, which lives as long as they do.
_guards: WeakValueDictionary[int, ModelGuard] = WeakValueDictionary()
_guards_lock = threading.Lock()
_held_by_fork: list[ModelGuard] = []


def find_guard(model: Any) -> ModelGuard:
    """The guard of a transformers model, the same one whoever asks."""
    config = model.config.get_text_config()
    with _guards_lock:
        guard = _guards.get(id(config))
        if guard is None:
            guard = _guards[id(config)] = ModelGuard(config)
    return guard


def _before_fork() -> None:
    """Wait until no pass is going on: the child gets whole models and free locks."""
    _guards_lock.acquire()
    _held_by_fork.extend(_guards.values())
    for guard in _held_by_fork:
        guard.lock.acquire()


def _after_fork() -> None:
    for guard in _held_by_fork:
        guard.lock.release()
    _held_by_fork.clear()
    _guards_lock.release()


def _after_fork_in_child() -> None:
    """One thread: those of OpenMP's pool were not forked, and a pass would wait for them."""
    if _held_by_fork:
        torch.set_num_threads(1)
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
    )
