"""Measures of masks: pure functions, scores, tables, metrics that mmengine calls, whole runs.

Each name is imported when it is first asked for.
"""

from flmm.lazy_exports import export_lazily

_HOMES = {
    "ExpressionScore": "flmm.evaluation.scores",
    "PNG_GROUPS": "flmm.evaluation.png_metric",
    "PngMetric": "flmm.evaluation.png_metric",
    "RefSegMetric": "flmm.evaluation.refseg_metric",
    "Report": "flmm.evaluation.scores",
    "build_report": "flmm.evaluation.scores",
    "build_rows": "flmm.evaluation.tables",
    "compute_accuracy_at": "flmm.evaluation.metrics",
    "compute_average_recall": "flmm.evaluation.metrics",
    "compute_ciou": "flmm.evaluation.metrics",
    "compute_intersections_unions": "flmm.evaluation.metrics",
    "compute_ious": "flmm.evaluation.metrics",
    "compute_miou": "flmm.evaluation.metrics",
    "compute_png_summary": "flmm.evaluation.metrics",
    "compute_precision_at": "flmm.evaluation.metrics",
    "compute_summary": "flmm.evaluation.metrics",
    "format_remarks": "flmm.evaluation.tables",
    "score_masks": "flmm.evaluation.scores",
    "score_sample": "flmm.evaluation.scores",
    "summarise": "flmm.evaluation.scores",
}
__all__ = list(_HOMES)
__getattr__ = export_lazily(__name__, _HOMES)
