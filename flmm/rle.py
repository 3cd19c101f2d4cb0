"""COCO's run-length encoding (RLE): the one door for masks that come as runs, and out again.

An RLE is a dict: ``size`` (h, w) and ``counts``, the runs of 0 and 1 in turn down the columns, as a
list or compressed (str or bytes). pycocotools trusts its input: a string that ends inside a number
makes it read and write beside its memory, runs that do not fill the picture give arbitrary pixels.
So no RLE from outside is ever handed to it: the runs are read, checked and laid out here.
"""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np

MAX_PIXELS = 2**28  # of one mask; no picture that is opened has more
_FIRST_CHAR = 48  # the character "0" has the value 0
_MAX_CHARS = 7  # of one number: 33 bits, an unsigned one of 32 and its sign


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """A bool mask ``[H, W]`` as COCO's compressed RLE, ready for JSON: ``size`` and ``counts``."""
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """The mask of an RLE, compressed or not: bool ``[H, W]``, as pycocotools decodes a sound one.

    ``size`` is the picture's (h, w), ``None``: the RLE's own. Raises as :func:`read_runs`.
    """
    runs = read_runs(rle, size)
    height, width = rle["size"]
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def read_runs(rle: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """The run lengths of an RLE, int64; they fill its mask.

    Raises:
        ValueError: not a dict with ``size`` and ``counts``; ``size`` is no size, too large, or
            another than the picture's; ``counts`` holds something else than numbers, ends inside
            one, or the runs do not fill the mask.
    """
    if not isinstance(rle, dict) or not {"size", "counts"} <= rle.keys():
        found = sorted(map(str, rle)) if isinstance(rle, dict) else reprlib.repr(rle)
        raise ValueError(f"an RLE has the keys 'size' and 'counts', this one has {found}")
    height, width = _check_size(rle["size"], size)
    counts = rle["counts"]
    if isinstance(counts, (str, bytes)):
        runs = _parse_counts(counts)
    elif isinstance(counts, list):
        # Compared as Python's integers, which cannot overflow.
        is_sound = all(type(run) is int and 0 <= run <= height * width for run in counts)
        runs = np.array(counts if is_sound else [-1], dtype=np.int64)
    else:
        raise ValueError(f"the counts of an RLE are a list or a string, got {reprlib.repr(counts)}")
    if not ((runs >= 0) & (runs <= height * width)).all() or runs.sum() != height * width:
        raise ValueError(f"the runs of the RLE do not fill its {height} x {width} px: it is broken")
    return runs


def _check_size(own: Any, wanted: tuple[int, int] | None) -> tuple[int, int]:
    is_size = isinstance(own, (list, tuple)) and len(own) == 2
    if not is_size or not all(type(side) is int and side > 0 for side in own):
        raise ValueError(f"the size of an RLE is [h, w] in px, this one has {reprlib.repr(own)}")
    if wanted is not None and tuple(own) != tuple(wanted):
        raise ValueError(f"the RLE is of size {list(own)} (h, w), its image of {list(wanted)}")
    if own[0] * own[1] > MAX_PIXELS:
        raise ValueError(f"the RLE is of size {list(own)} (h, w), over {MAX_PIXELS:,} px")
    return own[0], own[1]


def _parse_counts(counts: str | bytes) -> np.ndarray:
    """Run lengths of COCO's compressed counts, int64, not yet checked.

    Five bits per character, the lowest first; the sixth says that more follow, the last one's
    fifth is the sign. From the fourth run on, the difference to the last but one is stored.
    """
    content = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
    bits = np.frombuffer(content, dtype=np.uint8).astype(np.int64) - _FIRST_CHAR
    if not bits.size:
        return bits
    if bits.min() < 0 or bits.max() > 63:
        raise ValueError(
            f"the counts of the RLE hold characters that no run is written with: "
            f"{reprlib.repr(counts)}"
        )
    ends = np.flatnonzero(bits & 32 == 0)
    if not ends.size or ends[-1] != bits.size - 1:
        raise ValueError("the counts of the RLE end inside a number: they are cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARS:
        raise ValueError("the counts of the RLE hold a number of more than 32 bits: it is broken")
    shifts = 5 * (np.arange(bits.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((bits & 31) << shifts, starts)
    runs -= np.where(bits[ends] & 16, 1 << 5 * lengths, 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
