"""Which part of a picture is looked at again. Pixels, xyxy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flmm.geometry import Size

Box = tuple[int, int, int, int]
# Longer side over shorter one; image processors refuse pictures from 200 on.
_LONGEST = 100


def compute_crop_box(
    box_xyxy: Sequence[float], image_size: Size, scale: float = 1.0, min_side: int = 16
) -> Box:
    """The part of a picture around a box, which it always contains; whole pixels.

    Args:
        box_xyxy: right and bottom exclusive, within the picture.
        image_size: (H, W) of the picture.
        scale: sides of the part over sides of the box, about its centre; at least 1.
        min_side: the least side, as far as the picture has it.

    Source: F-LMM, flmm/models/frozen_deepseek_vl.py (``mask2box``). Deviations: right and bottom
    are exclusive, so that the mask's last row and column are shown; at the picture's border the
    part moves inwards instead of falling below ``min_side``; no part is longer than readers take.
    """
    height, width = image_size
    x0, y0, x1, y1 = box_xyxy
    longest = max(x1 - x0, y1 - y0) * scale
    least = max(min_side, math.ceil(longest / _LONGEST))
    left, right = _grow(x0, x1, width, scale, least)
    top, bottom = _grow(y0, y1, height, scale, least)
    return left, top, right, bottom


def _grow(low: float, high: float, size: int, scale: float, least: int) -> tuple[int, int]:
    """An edge pair grown about its centre, in whole pixels within ``[0, size]``."""
    center, half = (low + high) / 2, (high - low) * scale / 2
    start, end = max(0, math.floor(center - half)), min(size, math.ceil(center + half))
    missing = min(least, size) - (end - start)
    if missing > 0:
        start = min(max(0, start - missing // 2), size - min(least, size))
        end = start + min(least, size)
    return start, end
