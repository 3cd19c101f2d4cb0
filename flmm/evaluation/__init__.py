"""Measures of masks: pure functions, scores, tables, and the metrics that mmengine calls."""

from flmm.evaluation.metrics import (
    compute_accuracy_at,
    compute_average_recall,
    compute_ciou,
    compute_intersections_unions,
    compute_ious,
    compute_miou,
    compute_png_summary,
    compute_precision_at,
    compute_summary,
)
from flmm.evaluation.png_metric import PNG_GROUPS, PngMetric
from flmm.evaluation.refseg_metric import RefSegMetric
from flmm.evaluation.scores import (
    ExpressionScore,
    Report,
    build_report,
    score_masks,
    score_sample,
    summarise,
)
from flmm.evaluation.tables import build_rows, format_remarks

__all__ = [
    "PNG_GROUPS",
    "ExpressionScore",
    "PngMetric",
    "RefSegMetric",
    "Report",
    "build_report",
    "build_rows",
    "compute_accuracy_at",
    "compute_average_recall",
    "compute_ciou",
    "compute_intersections_unions",
    "compute_ious",
    "compute_miou",
    "compute_png_summary",
    "compute_precision_at",
    "compute_summary",
    "format_remarks",
    "score_masks",
    "score_sample",
    "summarise",
]
