"""COCO segmentations to bool masks, exactly as pycocotools decodes the sound ones.

pycocotools trusts its input: runs that do not fill the picture give arbitrary pixels, a coordinate
of 1e12 takes all memory. What is unsound is refused here, in words.

Data in: a ``segmentation`` as it stands in ``instances.json`` (polygons, uncompressed or
compressed RLE, crowd or not) and the picture's size. Data out: one bool mask in the original
frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

_MAX_COORDINATE = 1e5  # px; pictures are smaller, polygons may reach outside them a little


def decode_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask of one annotation.

    Args:
        segmentation: list of polygons ``[[x0, y0, x1, y1, ...], ...]`` (px, original frame), or
            an RLE dict with ``size`` (h, w) and ``counts`` (list, str or bytes).
        height, width: of the picture, px.

    Returns:
        bool ``[H, W]``; all false where no polygon has three points.

    Raises:
        ValueError: see :func:`check_segmentation`.
    """
    check_segmentation(segmentation, height, width)
    if isinstance(segmentation, dict):
        rle = segmentation
        if isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, height, width)
    else:
        # Two points enclose no pixel; pycocotools would take four numbers for a box.
        polygons = [polygon for polygon in segmentation if len(polygon) > 4]
        if not polygons:
            return np.zeros((height, width), dtype=bool)
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return coco_mask.decode(rle).astype(bool)


def check_segmentation(segmentation: Any, height: int, width: int) -> None:
    """Whether a segmentation can be decoded; nothing is decoded here.

    Raises:
        ValueError: neither form, coordinates that are no pixel positions, or an RLE whose runs do
            not fill a picture of this size.
    """
    if isinstance(segmentation, dict):
        _check_rle(segmentation, height, width)
    elif isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation):
        for polygon in segmentation:
            _check_polygon(polygon)
    else:
        raise ValueError(
            f"a segmentation is a list of polygons or an RLE dict, got {segmentation!r:.80}"
        )


def _check_polygon(polygon: list[Any]) -> None:
    """A polygon is pairs of numbers within reach of a picture."""
    if len(polygon) % 2:
        raise ValueError(f"a polygon is pairs x, y; this one has {len(polygon)} numbers")
    for value in polygon:
        # Written so that NaN fails too.
        if not (isinstance(value, (int, float)) and abs(value) < _MAX_COORDINATE):
            raise ValueError(f"a polygon has the coordinate {value!r}, which is no pixel position")


def _check_rle(rle: dict[str, Any], height: int, width: int) -> None:
    """An RLE has both keys, and its runs fill the picture."""
    if not {"size", "counts"} <= set(rle):
        raise ValueError(f"an RLE has the keys 'size' and 'counts', this one has {sorted(rle)}")
    if rle["size"] not in ([height, width], (height, width)):
        raise ValueError(
            f"the RLE is of size {rle['size']} (h, w), its image of [{height}, {width}]"
        )
    counts = rle["counts"]
    runs = counts if isinstance(counts, list) else _read_runs(counts)
    if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"the runs of the RLE do not fill its {height} x {width} px: it is broken")


def _read_runs(counts: Any) -> list[int]:
    """Run lengths of COCO's compressed counts.

    Five bits per character, the lowest first; the sixth says that more follow, the last one's
    fifth is the sign. From the fourth run on, the difference to the last but one is stored.
    """
    if not isinstance(counts, (str, bytes)):
        raise ValueError(f"the counts of an RLE are a list or a string, got {counts!r:.80}")
    runs: list[int] = []
    value = shift = 0
    for char in counts.encode("latin1", "replace") if isinstance(counts, str) else counts:
        bits = char - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


__all__ = ["check_segmentation", "decode_segmentation"]
