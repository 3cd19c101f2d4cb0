"""Mutated and random pickles: refused, or what Python's unpickler makes of them.

In child processes: Python's unpickler, which is the oracle, can take all memory or end its process.
"""

import collections
import io
import pickle
import pickletools
import random
from typing import Any

import pytest

from flmm.data.plain_pickle import RefusedPickleError, read_plain_pickle
from tests.fuzz.harness import Fuzz

pytestmark = pytest.mark.fuzz

WORDS = ("ref_id", "sent_id", "raw", "the dog", "", "é漢🐕", "\ud800", "a'b\\n")
CODES = [ord(item.code) for item in pickletools.opcodes]


class Harmless(pickle.Unpickler):
    """Knows the names that stand for data."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"set": set, "frozenset": frozenset, "OrderedDict": collections.OrderedDict}
        if name == "encode":
            return lambda text, encoding="latin1": text.encode("latin1")
        return (lambda: b"") if name == "bytes" else known[name]


def make_scalar(rng: random.Random) -> Any:
    numbers = (0, 1, -1, 255, 2**16, -(2**31), 2**70, 0.5, -0.0, float("inf"), 1e-320)
    return rng.choice((*numbers, *WORDS, None, True, False, b"", b"raw\xff"))


def make_value(rng: random.Random, depth: int = 4) -> Any:
    kind = rng.randrange(9) if depth else 0
    if kind < 3:
        return make_scalar(rng)
    items = [make_value(rng, depth - 1) for _ in range(rng.randrange(5))]
    scalars = [make_scalar(rng) for _ in items]
    if kind < 5:
        return items
    if kind < 7:
        return dict(zip(scalars, items))
    makers = (tuple, lambda _: set(scalars), lambda _: frozenset(scalars), lambda _: items * 2)
    return rng.choice(makers)(items)


def make_pickle(rng: random.Random) -> bytes:
    """A sound pickle of any protocol, most often with a few changes; or instructions by chance."""
    if rng.random() < 0.1:
        return bytes(rng.choices(CODES, k=rng.randrange(1, 60)))
    content = bytearray(pickle.dumps(make_value(rng), protocol=rng.randrange(6)))
    if rng.random() < 0.2:
        content = bytearray(pickletools.optimize(bytes(content)))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(len(content))
        change = rng.randrange(5)
        if change == 0:
            content[at] = rng.choice(CODES)
        elif change == 1:
            content[at] ^= 1 << rng.randrange(8)
        elif change == 2:
            content.insert(at, rng.choice(CODES))
        elif change == 3:
            del content[at : at + rng.randrange(1, 4)]
        else:
            content = content[: at + 1]
        content = content or bytearray(b".")
    return bytes(content)


def judge(content: bytes) -> None:
    try:
        value = read_plain_pickle(content)
    except RefusedPickleError as error:
        assert 0 < len(str(error)) < 300
        return
    try:
        expected = Harmless(io.BytesIO(content), encoding="utf-8").load()
    except Exception:  # what flmm reads, another may refuse
        return
    # What holds itself can be printed, not compared; what holds NaN is unlike itself.
    found, wanted = repr(value), repr(expected)
    is_same_nan = "nan" in wanted and sorted(found) == sorted(wanted)
    assert found == wanted or is_same_nan or value == expected, expected


def test_pickles(fuzz: Fuzz) -> None:
    fuzz.check_in_children(make_pickle, judge)


def test_many_mutated_pickles_are_still_read() -> None:
    draws = map(Fuzz("share", 0, 0, 300).draw, range(300))
    read = 0
    for content in map(make_pickle, draws):
        try:
            read_plain_pickle(content)
        except RefusedPickleError:
            continue
        read += 1
    assert 60 < read < 240
