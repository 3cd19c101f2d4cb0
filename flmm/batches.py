"""Batches of pictures: which phrases are whose, which pictures are read together, whose error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat, zip_longest
from pathlib import Path
from typing import Any, TypeVar

from flmm.images import describe_address, is_address
from flmm.records import Continuation, ImageInput, as_continuations

Result = TypeVar("Result")
_MAX_WINDOW = 16  # pictures
_MAX_WINDOW_PIXELS = 2**23  # of what the reader sees: about 10,000 tokens
_END = object()
_WAYS = (
    "give one phrase or one list of phrases for all pictures, or a list of lists, one per picture"
)


def is_stream(pictures: Any) -> bool:
    """Whether somebody gave an iterator of pictures; an open file is one picture."""
    return isinstance(pictures, Iterator) and not hasattr(pictures, "read")


def pair_pictures(pictures: Iterable[Any], phrases: Any) -> Iterator[tuple[Any, Any]]:
    """Each picture of a list, a tuple or an iterator with its phrases, told by type alone.

    A ``str``, a :class:`Continuation` or a list of them is for every picture; a list or an iterator
    of lists has one per picture (where an iterator's count does not fit, its end shows it).
    """
    count = len(pictures) if isinstance(pictures, (list, tuple)) else None
    if count == 0:
        raise ValueError("no picture given: pass at least one")
    if isinstance(phrases, Iterator):
        return _zip_exactly(pictures, phrases)
    if isinstance(phrases, (str, Continuation)):
        phrases = [phrases]
    if not isinstance(phrases, Iterable):
        raise TypeError(f"the phrases of a batch are a {type(phrases).__name__}: {_WAYS}")
    own = list(phrases)
    if not own:
        raise ValueError(f"no phrase given: {_WAYS}")
    lists = sum(isinstance(item, (list, tuple)) for item in own)
    if lists == 0:
        return zip(pictures, repeat(as_continuations(own)))
    if lists < len(own):
        kinds = f"{lists} lists and {len(own) - lists} of no list"
        raise TypeError(f"the phrases of a batch are {kinds}: {_WAYS}")
    if count not in (None, len(own)):
        raise ValueError(f"got {count} pictures and {len(own)} lists of phrases: {_WAYS}")
    return _zip_exactly(pictures, iter(own))


def _zip_exactly(pictures: Iterable[Any], lists: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    for count, pair in enumerate(zip_longest(pictures, lists, fillvalue=_END)):
        if pair[1] is _END:
            raise ValueError(
                f"the lists of phrases ended after {count} pictures, and there are more pictures: "
                "give one list per picture"
            )
        if pair[0] is _END:
            raise ValueError(
                f"there are more lists of phrases than the {count} pictures: give one list per "
                "picture"
            )
        yield pair


@dataclass(eq=False)
class Task:
    """A picture of a batch, what a person called it, and its phrases.

    ``image``, ready for the reader, is ``None`` where ``error`` says why it is not.
    """

    index: int
    given: Any
    continuations: list[Continuation] = field(default_factory=list)
    image: ImageInput | None = None
    error: Exception | None = None


def run_batch(
    pairs: Iterable[tuple[Any, Any]],
    encode: Callable[[Any], ImageInput],
    run: Callable[[Sequence[Task]], Sequence[Result]],
    raises: bool,
) -> Iterator[Result | Exception]:
    """What ``run`` makes of each picture, in order; it is given as many as are read together.

    Where it fails for all together, each is tried alone, so that none is lost for another. One pair
    more than those of a window is taken at any time. An error, raised in its result's place or
    given, names the picture.
    """
    for window in _group_tasks(_prepare(pairs, encode)):
        for task, result in zip(window, _run_window(window, run)):
            if isinstance(result, Exception):
                result = _name_picture(result, task)
                if raises:
                    raise result
            yield result


def _prepare(
    pairs: Iterable[tuple[Any, Any]], encode: Callable[[Any], ImageInput]
) -> Iterator[Task]:
    """Pictures opened one after the other, when they are asked for."""
    for index, (given, phrases) in enumerate(pairs):
        try:
            if not isinstance(phrases, (list, tuple)):
                raise TypeError(
                    f"its phrases are a {type(phrases).__name__}: give a list for every picture"
                )
            yield Task(index, given, as_continuations(phrases), encode(given))
        except Exception as error:
            yield Task(index, given, error=error)


def _group_tasks(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    """Windows of up to 16 pictures and 8 megapixels; a larger picture stands alone."""
    window: list[Task] = []
    total = 0
    for task in tasks:
        pixels = 0 if task.image is None else task.image.pixel_values.numel() // 3
        weight = max(pixels, _MAX_WINDOW_PIXELS // _MAX_WINDOW)
        if window and total + weight > _MAX_WINDOW_PIXELS:
            yield window
            window, total = [], 0
        window.append(task)
        total += weight
    if window:
        yield window


def _run_window(
    window: Sequence[Task], run: Callable[[Sequence[Task]], Sequence[Result]]
) -> Iterator[Result | Exception]:
    ready = [task for task in window if task.error is None]
    done: dict[int, Result] = {}
    if len(ready) > 1:
        with contextlib.suppress(Exception):
            done = dict(zip((task.index for task in ready), run(ready)))
    for task in window:
        try:
            if task.error is not None:
                raise task.error
            yield done[task.index] if task.index in done else run([task])[0]
        except Exception as error:
            yield error


def _name_picture(error: Exception, task: Task) -> Exception:
    """The same kind of error, its message beginning with the picture that it is about."""
    given = task.given
    name = f" ({str(given)!r:.200})" if isinstance(given, (str, Path)) else ""
    if is_address(given):
        name = f" ({describe_address(given)})"  # without what a link may carry for its owner alone
    kinds = (FileNotFoundError, OSError, TypeError, ValueError, RuntimeError, Exception)
    kind = next(kind for kind in kinds if isinstance(error, kind))
    named = kind(f"picture {task.index}{name}: {error}")
    named.__cause__ = error
    return named
