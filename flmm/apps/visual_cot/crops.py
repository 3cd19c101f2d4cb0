"""Which part of a picture is looked at again, and how well it meets a true box. Pixels, xyxy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flmm.geometry import Size
from flmm.readers.qwen_image_processor import MAX_ASPECT_RATIO

Box = tuple[int, int, int, int]


def compute_crop_box(
    box_xyxy: Sequence[float], image_size: Size, scale: float = 1.0, min_side: int = 16
) -> Box:
    """The part of a picture around a box, which it always contains.

    Args:
        box_xyxy: right and bottom exclusive, within the picture.
        image_size: (H, W) of the picture.
        scale: sides of the part over sides of the box, about its centre; at least 1.
        min_side: the least side, as far as the picture has it.

    Returns:
        whole pixels, right and bottom exclusive.

    Source: F-LMM, flmm/models/frozen_deepseek_vl.py (``mask2box``). Deviations: right and bottom
    are exclusive, so that the mask's last row and column are shown; at the picture's border the
    part moves inwards instead of falling below ``min_side``; no part is longer than the reader
    takes.
    """
    height, width = image_size
    x0, y0, x1, y1 = box_xyxy
    longest = max(x1 - x0, y1 - y0) * scale
    # Half the limit: rounding to whole pixels must not reach it.
    least = max(min_side, math.ceil(2 * longest / MAX_ASPECT_RATIO))
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


def compute_box_iou(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes, in [0, 1]; right and bottom exclusive."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = sum(areas) - intersection
    return intersection / union if union > 0 else 0.0


__all__ = ["Box", "compute_box_iou", "compute_crop_box"]
