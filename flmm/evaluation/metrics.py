"""The field's measures of grounded masks, as pure functions of counted pixels.

Fractions in [0, 1]. Conventions for empty masks are those of mmdet's ``RefSegMetric``: where
prediction and truth are both empty, the IoU of the expression is 0 and it adds nothing to cIoU's
sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
ACCURACY_THRESHOLD = 0.5


def compute_intersections_unions(masks: Tensor, gt_masks: Tensor) -> tuple[list[int], list[int]]:
    """Pixels in both masks and pixels in either, per expression.

    Args:
        masks, gt_masks: bool ``[P, H, W]``, same frame and order.

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
    return [both / either if either else 0.0 for both, either in zip(intersections, unions)]


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
    precisions = {
        f"precision@{threshold}": 100 * compute_precision_at(ious, threshold)
        for threshold in PRECISION_THRESHOLDS
    }
    ciou, miou = compute_ciou(intersections, unions), compute_miou(ious)
    return {"cIoU": 100 * ciou, "mIoU": 100 * miou, **precisions}


def compute_average_recall(ious: Sequence[float]) -> float:
    """Area under the recall-IoU curve, exact; 0 for none.

    Recall at a threshold t in [0, 1] is the share of phrases with IoU >= t. A phrase adds 1 / n to
    the curve from 0 up to its own IoU, so that the area under the steps is the mean IoU.

    Source: BCV-Uniandes/PNG baseline/utils/meters.py, ``average_accuracy``, sums the same curve at
    100,000 thresholds from the left; the difference is below its step, 1e-5.
    """
    return compute_miou(ious)


def compute_accuracy_at(ious: Sequence[float], threshold: float) -> float:
    """Fraction of phrases whose IoU is above ``threshold``; 0 for none.

    Above, not "at least" as in :func:`compute_precision_at`: the scripts of both PNG
    (baseline/test_net.py) and F-LMM (scripts/multiprocess_eval_png.py) count ``iou > 0.5``.
    """
    return sum(iou > threshold for iou in ious) / max(len(ious), 1)


def compute_png_summary(intersections: Sequence[int], unions: Sequence[int]) -> dict[str, float]:
    """``average_recall`` and ``accuracy@0.5``, in percent."""
    ious = compute_ious(intersections, unions)
    return {
        "average_recall": 100 * compute_average_recall(ious),
        f"accuracy@{ACCURACY_THRESHOLD}": 100 * compute_accuracy_at(ious, ACCURACY_THRESHOLD),
    }
