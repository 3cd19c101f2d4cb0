"""COCO segmentations to bool masks, exactly as pycocotools decodes the sound ones.

pycocotools trusts its input: a coordinate of 1e12 or an outline without end takes all memory. What
is unsound is refused here, in words; runs are the duty of :mod:`flmm.rle`.
"""

from __future__ import annotations

import reprlib
from itertools import chain
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from flmm.rle import MAX_PIXELS, decode_mask, read_runs

_MAX_COORDINATE = 1e5  # px; pictures are smaller, polygons may reach outside them a little
_MAX_OUTLINE = 2e6  # px; pycocotools keeps five points for each


def decode_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask of one annotation, bool ``[H, W]``; all false where no polygon has three points.

    Args:
        segmentation: list of polygons ``[[x0, y0, x1, y1, ...], ...]`` (px, original frame), or
            an RLE dict with ``size`` (h, w) and ``counts`` (list, str or bytes).
        height, width: of the picture, px.

    Raises:
        ValueError: see :func:`check_segmentation`.
    """
    if isinstance(segmentation, dict):
        return decode_mask(segmentation, (height, width))
    check_segmentation(segmentation, height, width)
    # Two points enclose no pixel; pycocotools would take four numbers for a box.
    polygons = [polygon for polygon in segmentation if len(polygon) > 4]
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return coco_mask.decode(rle).astype(bool)


def check_segmentation(segmentation: Any, height: int, width: int) -> None:
    """Raise a ``ValueError`` where a segmentation cannot be decoded; no mask is made here.

    It is neither form, has coordinates that are no pixel positions, outlines longer than any
    object's, more pixels than any picture, or an RLE that :func:`flmm.rle.read_runs` refuses.
    """
    if isinstance(segmentation, dict):
        read_runs(segmentation, (height, width))
    elif isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation):
        if height * width > MAX_PIXELS:
            raise ValueError(f"the mask would be of {height} x {width} px, over {MAX_PIXELS:,} px")
        _check_polygons(segmentation)
    else:
        raise ValueError(
            f"a segmentation is a list of polygons or an RLE dict, got {reprlib.repr(segmentation)}"
        )


def _check_polygons(polygons: list[list[Any]]) -> None:
    """Polygons are pairs of numbers within reach of a picture, and go round some object."""
    for polygon in polygons:
        if len(polygon) % 2:
            raise ValueError(f"a polygon is pairs x, y; this one has {len(polygon)} numbers")
    for value in chain.from_iterable(polygons):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # Written so that NaN fails too.
        if not (is_number and abs(value) < _MAX_COORDINATE):
            raise ValueError(
                f"a polygon has the coordinate {reprlib.repr(value)}, which is no pixel position"
            )
    outline = sum(map(_measure_outline, polygons))
    if outline > _MAX_OUTLINE:
        raise ValueError(f"the polygons' outlines are {outline:,.0f} px long: they are no object's")


def _measure_outline(polygon: list[float]) -> float:
    """Length of a closed outline in px, an edge being as long as its longer side."""
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    steps = points - np.roll(points, 1, axis=0)
    return float(np.abs(steps).max(axis=1).sum()) if len(points) else 0.0
