"""The field's measures of referring segmentation, as pure functions of counted pixels.

Data in: bool masks, then intersections and unions in pixels. Data out: fractions in [0, 1].
Conventions for empty masks are those of mmdet's ``RefSegMetric``: where prediction and truth are
both empty, the IoU of the expression is 0 and it adds nothing to cIoU's sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def compute_intersections_unions(masks: Tensor, gt_masks: Tensor) -> tuple[list[int], list[int]]:
    """Pixels in both masks and pixels in either, per expression.

    Args:
        masks, gt_masks: bool ``[P, H, W]``, same frame and order.

    Returns:
        (intersections [P], unions [P]), px.

    Raises:
        ValueError: the shapes differ.
    """
    if masks.shape != gt_masks.shape:
        raise ValueError(
            f"predicted masks are {list(masks.shape)}, true masks {list(gt_masks.shape)}: both "
            "are [P, H, W] in the original frame"
        )
    masks, gt_masks = masks.bool().flatten(1), gt_masks.bool().flatten(1).to(masks.device)
    return (masks & gt_masks).sum(1).tolist(), (masks | gt_masks).sum(1).tolist()


def compute_ious(intersections: Sequence[int], unions: Sequence[int]) -> list[float]:
    """IoU of each expression; 0 where the union is empty."""
    return [
        intersection / union if union else 0.0 for intersection, union in zip(intersections, unions)
    ]


def compute_ciou(intersections: Sequence[int], unions: Sequence[int]) -> float:
    """Cumulative IoU: sum of intersections / sum of unions; 0 where all unions are empty."""
    return sum(intersections) / max(sum(unions), 1)


def compute_miou(ious: Sequence[float]) -> float:
    """Mean IoU over expressions, the same in whatever order; 0 for none."""
    return math.fsum(ious) / max(len(ious), 1)


def compute_precision_at(ious: Sequence[float], threshold: float) -> float:
    """Fraction of expressions whose IoU is at least ``threshold``; 0 for none."""
    return sum(iou >= threshold for iou in ious) / max(len(ious), 1)


def compute_summary(intersections: Sequence[int], unions: Sequence[int]) -> dict[str, float]:
    """``cIoU``, ``mIoU`` and ``precision@k`` for every threshold, in percent."""
    ious = compute_ious(intersections, unions)
    summary = {
        "cIoU": 100 * compute_ciou(intersections, unions),
        "mIoU": 100 * compute_miou(ious),
    }
    for threshold in PRECISION_THRESHOLDS:
        summary[f"precision@{threshold}"] = 100 * compute_precision_at(ious, threshold)
    return summary


__all__ = [
    "PRECISION_THRESHOLDS",
    "compute_ciou",
    "compute_intersections_unions",
    "compute_ious",
    "compute_miou",
    "compute_precision_at",
    "compute_summary",
]
