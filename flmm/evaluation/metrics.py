"""The field's measures of grounded masks, as pure functions of counted pixels.

Fractions in [0, 1]. Where prediction and truth are both empty, the expression adds nothing to
cIoU's sums; its IoU is 0 in RefCOCO's figures, as in mmdet's ``RefSegMetric``, and 1 where a data
set has expressions of nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
ACCURACY_THRESHOLD = 0.5
GENERALISED_THRESHOLDS = (0.7, 0.8, 0.9)


def compute_intersections_unions(
    masks: Tensor, gt_masks: Tensor, ignored: Tensor | None = None
) -> tuple[list[int], list[int]]:
    """Pixels in both masks and pixels in either, per expression.

    Args:
        masks, gt_masks: bool ``[P, H, W]``, same frame and order.
        ignored: bool ``[H, W]``, pixels that are in neither count.

    Raises:
        ValueError: the shapes differ.
    """
    if masks.shape != gt_masks.shape:
        raise ValueError(
            f"predicted masks are {list(masks.shape)}, true masks {list(gt_masks.shape)}: both "
            "are [P, H, W] in the original frame"
        )
    masks, gt_masks = masks.bool(), gt_masks.bool().to(masks.device)
    both, either = masks & gt_masks, masks | gt_masks
    if ignored is not None:
        both, either = (mask & ~ignored.to(mask.device) for mask in (both, either))
    return both.flatten(1).sum(1).tolist(), either.flatten(1).sum(1).tolist()


def compute_ious(
    intersections: Sequence[int], unions: Sequence[int], empty: float = 0.0
) -> list[float]:
    """IoU of each expression; ``empty`` where the union is."""
    return [both / either if either else empty for both, either in zip(intersections, unions)]


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


def compute_generalised_summary(
    intersections: Sequence[int], unions: Sequence[int], gt_pixels: Sequence[int]
) -> dict[str, float]:
    """gRefCOCO's figures in percent: ``gIoU``, ``cIoU``, ``N-acc``, ``T-acc``, ``precision@k``.

    gIoU is the mean IoU, 1 where neither the truth nor the prediction has a pixel. N-acc is the
    share of expressions of nothing for which nothing was predicted, T-acc that of the others for
    which something was; precision is over the others. A figure of no expression is left out.

    Source: Liu et al., GRES, CVPR 2023 (arXiv 2306.00968), section 5.1; henghuiding/ReLA
    gres_model/evaluation/refer_evaluation.py. Deviations from that script, which differs from the
    paper: its T_acc is TP / (TP + FP + 1), of predictions, and its N_acc adds 1 below the line too.
    Nothing is predicted where the mask is empty; ReLA has a classifier for it.
    """
    summary = compute_reasoning_summary(intersections, unions, gt_pixels)
    rows = list(zip(intersections, unions, gt_pixels))
    # Predicted pixels are those in either mask, less the true ones, and those in both.
    found = [either - true + both > 0 for both, either, true in rows]
    none = [not is_found for is_found, true in zip(found, gt_pixels) if not true]
    some = [is_found for is_found, true in zip(found, gt_pixels) if true]
    if none:
        summary["N-acc"] = 100 * sum(none) / len(none)
    if some:
        summary["T-acc"] = 100 * sum(some) / len(some)
        ious = [both / either for both, either, true in rows if true]
        for threshold in GENERALISED_THRESHOLDS:
            summary[f"precision@{threshold}"] = 100 * compute_precision_at(ious, threshold)
    return summary


def compute_reasoning_summary(
    intersections: Sequence[int], unions: Sequence[int], gt_pixels: Sequence[int]
) -> dict[str, float]:
    """ReasonSeg's figures in percent: ``gIoU`` and, where anything is to be found, ``cIoU``.

    Source: Lai et al., LISA (arXiv 2308.00692), section 4.1; dvlab-research/LISA train_ds.py, where
    empty masks of both kinds have IoU 1 too. Deviation: no 1e-5 is added to unions.
    """
    summary = {"gIoU": 100 * compute_miou(compute_ious(intersections, unions, empty=1.0))}
    if any(gt_pixels):
        summary["cIoU"] = 100 * compute_ciou(intersections, unions)
    return summary
