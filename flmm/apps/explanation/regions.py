"""Regions of a picture on the attention grid, and which tokens look there.

In: a box or a mask in pixels of the picture as given, and maps of tokens. Out: the share of each
grid cell that the region covers, exact for any size, and ranked tokens.

A token that puts the weight ``m[i, j]`` on cell ``(i, j)`` looks at a region that covers
``c[i, j]`` of each cell, in [0, 1], with the share ``sum(m * c) / sum(m)``. A token that looks
everywhere alike has the share ``sum(c) / (h * w)``, what is expected of a token that knows nothing.
Tokens are ranked by the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flmm.apps.explanation.tokens import ExplainedToken
from flmm.geometry import Size, resample_area


@dataclass(frozen=True)
class RankedToken:
    """How much a token looks at a region.

    Attributes:
        index: its place in the explanation's ``tokens``.
        weight: its attention inside the region, of all it has (mean over the merged heads).
        share: of its attention on the picture the part inside the region, in [0, 1].
        expected: the region's share of the picture's grid cells, in [0, 1].
    """

    index: int
    token: ExplainedToken
    weight: float
    share: float
    expected: float

    @property
    def excess(self) -> float:
        """Share above what is expected, in [-1, 1]: what tokens are ranked by."""
        return self.share - self.expected


def compute_region_coverage(
    image_size: Size,
    grid_size: Size,
    box: Sequence[float] | np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Share of each cell of a grid (h, w) that a region of a picture (H, W) covers, float64.

    Args:
        image_size: (H, W) pixels of the picture as given.
        grid_size: (h, w) of the grid over it.
        box: xyxy in pixels of the picture; what reaches outside is cut off.
        mask: bool ``[H, W]``; instead of a box.

    Raises:
        TypeError: the mask is not bool.
        ValueError: not exactly one region is given; it is empty, outside, or of another size.
    """
    if (box is None) == (mask is None):
        raise ValueError("give one region: a box (x0, y0, x1, y1 in pixels) or a mask")
    if mask is not None:
        checked = torch.from_numpy(_check_mask(mask, image_size))[None]
        return compute_mask_coverage(checked, grid_size)[0].numpy()
    x0, y0, x1, y1 = _check_box(box, image_size)
    rows = _compute_overlaps(y0, y1, image_size[0], grid_size[0])
    return np.outer(rows, _compute_overlaps(x0, x1, image_size[1], grid_size[1]))


def compute_mask_coverage(masks: Tensor, grid_size: Size) -> Tensor:
    """Share of each cell of a grid that masks cover; pixels across a border count by their area.

    Bool ``[P, H, W]`` to float64 ``[P, h, w]`` in [0, 1] on the CPU.
    """
    frame = (0.0, 0.0, 1.0, 1.0)
    # A hair less or more than all of a cell is rounding.
    return resample_area(masks.cpu().float(), frame, frame, grid_size).double().clamp(0, 1)


def rank_maps(
    tokens: Sequence[ExplainedToken], maps: np.ndarray, coverage: np.ndarray
) -> list[RankedToken]:
    """Tokens by how much more they look at a region than a token that knows nothing.

    ``maps`` are ``[T, h, w]``, ``coverage`` of the region ``[h, w]``; tokens with no weight on the
    picture are left out.
    """
    maps = maps.astype(np.float64)
    inside, total = (maps * coverage).sum((1, 2)), maps.sum((1, 2))
    expected = float(coverage.mean())
    ranked = [
        RankedToken(index, token, float(part), float(part / whole), expected)
        for index, (token, part, whole) in enumerate(zip(tokens, inside, total))
        if whole > 0
    ]
    return sorted(ranked, key=lambda item: -item.excess)


def _compute_overlaps(start: float, end: float, length: int, cells: int) -> np.ndarray:
    """Share of each cell of a line that lies between two places, in pixels."""
    edges = np.arange(cells + 1)
    low, high = start * cells / length, end * cells / length
    return (np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1])).clip(min=0)


def _check_box(box: Any, image_size: Size) -> np.ndarray:
    """The box as float64 ``[4]``, cut off at the picture's border."""
    edges = np.asarray(box, dtype=np.float64)
    height, width = image_size
    if edges.shape != (4,) or not np.isfinite(edges).all():
        raise ValueError(f"the box is {box}: give four finite numbers, x0 y0 x1 y1 in pixels")
    if edges[2] <= edges[0] or edges[3] <= edges[1]:
        raise ValueError(f"the box {edges.tolist()} is empty: x0 < x1 and y0 < y1 are needed")
    cut = np.clip(edges, 0, [width, height, width, height])
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        raise ValueError(
            f"the box {edges.tolist()} lies outside the picture, which is {width} px wide and "
            f"{height} px high: give x0 y0 x1 y1 in pixels of the picture"
        )
    return cut


def _check_mask(mask: Any, image_size: Size) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"the mask holds {mask.dtype}: give bool, for example mask > 0.5")
    if mask.shape != tuple(image_size):
        raise ValueError(
            f"the mask is of size {mask.shape}, the picture of size {tuple(image_size)} (h, w): "
            "give the mask in pixels of the picture as given"
        )
    if not mask.any():
        raise ValueError("the mask is empty: give one with at least one pixel")
    return np.ascontiguousarray(mask)
