"""Random and mutated masks: refused, or what plain Python and pycocotools decode.

Decoded in child processes: at its worst, what was wrong here broke the heap.
"""

import random
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from flmm.data.masks import check_segmentation, decode_segmentation
from flmm.rle import encode_mask
from tests.fuzz.harness import Fuzz

pytestmark = pytest.mark.fuzz

# Counts of any kind, and the characters that pycocotools writes.
ALPHABETS = ("".join(map(chr, range(48, 112))), "".join(map(chr, range(256))), "0OPo", "漢é\ud800")
ODD_NUMBERS = (-1, 0, 1, 2**31, 2**32, 2**63, -(2**70), 10**400, 0.5, 1e9, float("nan"))
ODD_VALUES = (*ODD_NUMBERS, float("inf"), True, None, "3", b"3", [], {}, [[1]])

Case = tuple[Any, int, int]  # segmentation, height, width


def make_mask(rng: random.Random) -> np.ndarray:
    height, width = rng.randrange(1, 30), rng.randrange(1, 30)
    bits = [rng.random() < rng.choice((0.02, 0.5)) for _ in range(height * width)]
    return np.array(bits, dtype=bool).reshape(height, width)


def make_rle_case(rng: random.Random) -> Case:
    """A sound RLE, most often with a change to its string."""
    mask = make_mask(rng)
    rle = encode_mask(mask)
    counts = rle["counts"]
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        at = rng.randrange(len(counts) + 1)
        piece = "".join(rng.choices(rng.choice(ALPHABETS), k=rng.randrange(1, 4)))
        counts = rng.choice(
            (
                counts[:at],
                counts[at:],
                counts[:at] + piece + counts[at:],
                counts[:at] + piece + counts[at + len(piece) :],
                "".join(rng.choices(rng.choice(ALPHABETS), k=rng.randrange(40))),
            )
        )
    if rng.random() < 0.1:
        rle["size"] = rng.choice(([*mask.shape[::-1]], [0, 4], [-1, -1], [2**16, 2**16], "ab", 3))
    if rng.random() < 0.2:
        return {**rle, "counts": counts.encode("latin1", "replace")}, *mask.shape
    return {**rle, "counts": counts}, *mask.shape


def make_case(rng: random.Random) -> Case:
    """A segmentation of any kind."""
    kind = rng.random()
    if kind < 0.5:
        return make_rle_case(rng)
    mask = make_mask(rng)
    if kind < 0.7:
        counts: list[Any] = list(read_slowly(encode_mask(mask)["counts"]))
        for _ in range(rng.choice((0, 1, 2))):
            counts[rng.randrange(len(counts))] = rng.choice(ODD_VALUES)
        return {"size": [*mask.shape], "counts": counts}, *mask.shape
    reach = rng.choice((40, 40, 40, 1e5, 1e7))
    polygons: list[Any] = [
        [rng.uniform(-reach, reach) for _ in range(2 * rng.choice((0, 1, 2, 3, 4, 60, 2000)))]
        for _ in range(rng.randrange(4))
    ]
    if polygons and rng.random() < 0.4:
        polygon = rng.choice(polygons)
        polygon.insert(rng.randrange(len(polygon) + 1), rng.choice(ODD_VALUES))
    size = mask.shape if rng.random() < 0.9 else (rng.choice((0, 10**6, 2**33)), 10**6)
    return rng.choice((polygons, polygons, polygons, rng.choice(ODD_VALUES))), *size


def read_slowly(counts: str) -> list[int]:
    """Runs of compressed counts, read as the format is defined: one character after the other."""
    runs: list[int] = []
    rest = iter(counts)
    for char in rest:
        digits = [ord(char) - 48]
        while digits[-1] & 32:
            digits.append(ord(next(rest)) - 48)
        value = sum((digit & 31) << 5 * place for place, digit in enumerate(digits))
        value -= 1 << 5 * len(digits) if digits[-1] & 16 else 0
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def decode_slowly(segmentation: dict[str, Any], height: int, width: int) -> np.ndarray:
    counts = segmentation["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    runs = read_slowly(counts) if isinstance(counts, str) else counts
    pixels = [bool(place % 2) for place, run in enumerate(runs) for _ in range(run)]
    return np.array(pixels).reshape(width, height).T


def judge(case: Case) -> None:
    """Refused with ``ValueError``, or the mask of both other decoders."""
    segmentation, height, width = case
    try:
        check_segmentation(segmentation, height, width)
    except ValueError as error:
        assert str(error) and len(str(error)) < 300
        with pytest.raises(ValueError):
            decode_segmentation(segmentation, height, width)
        return
    mask = decode_segmentation(segmentation, height, width)
    assert mask.dtype == bool and mask.shape == (height, width)
    if isinstance(segmentation, dict):
        assert np.array_equal(mask, decode_slowly(segmentation, height, width))
        assert np.array_equal(coco_mask.decode(encode_mask(mask)), mask)
        if isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, height, width)
        assert np.array_equal(mask, coco_mask.decode(segmentation))


def test_compressed_rles(fuzz: Fuzz) -> None:
    fuzz.check_in_children(make_rle_case, judge)


def test_segmentations(fuzz: Fuzz) -> None:
    fuzz.check_in_children(make_case, judge)


@pytest.mark.parametrize("make", [make_rle_case, make_case])
def test_sound_and_broken_ones_are_made(make) -> None:
    """Of both kinds there are enough to mean something."""
    cases = [make(Fuzz("share", 0, 0, 200).draw(number)) for number in range(200)]
    sound = 0
    for segmentation, height, width in cases:
        try:
            check_segmentation(segmentation, height, width)
        except ValueError:
            continue
        sound += 1
    assert 40 <= sound <= 160
