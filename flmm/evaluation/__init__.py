"""Measures of masks: pure functions, and the metric that mmengine's loops call."""

from flmm.evaluation.metrics import (
    compute_ciou,
    compute_intersections_unions,
    compute_ious,
    compute_miou,
    compute_precision_at,
    compute_summary,
)
from flmm.evaluation.refseg_metric import RefSegMetric

__all__ = [
    "RefSegMetric",
    "compute_ciou",
    "compute_intersections_unions",
    "compute_ious",
    "compute_miou",
    "compute_precision_at",
    "compute_summary",
]
