"""COCO segmentations to bool masks, exactly as pycocotools decodes them.

Data in: a ``segmentation`` as it stands in ``instances.json`` (polygons, uncompressed or
compressed RLE, crowd or not) and the picture's size. Data out: one bool mask in the original
frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def decode_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask of one annotation.

    Args:
        segmentation: list of polygons ``[[x0, y0, x1, y1, ...], ...]`` (px, original frame), or
            an RLE dict with ``size`` (h, w) and ``counts`` (list, str or bytes).
        height, width: of the picture, px.

    Returns:
        bool ``[H, W]``; all false for an empty list of polygons.

    Raises:
        ValueError: neither form, or an RLE of another size than the picture's.
    """
    if isinstance(segmentation, dict):
        rle = _check_rle(segmentation, height, width)
        if isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, height, width)
    elif isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation):
        if not segmentation:
            return np.zeros((height, width), dtype=bool)
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    else:
        raise ValueError(
            f"a segmentation is a list of polygons or an RLE dict, got {segmentation!r:.80}"
        )
    return coco_mask.decode(rle).astype(bool)


def _check_rle(rle: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """The RLE, if it has both keys and the picture's size."""
    if not {"size", "counts"} <= set(rle):
        raise ValueError(f"an RLE has the keys 'size' and 'counts', this one has {sorted(rle)}")
    if list(rle["size"]) != [height, width]:
        raise ValueError(
            f"the RLE is of size {list(rle['size'])} (h, w), its image of [{height}, {width}]"
        )
    return rle


__all__ = ["decode_segmentation"]
