"""Measures of masks: pure functions, scores, and the metrics that mmengine calls.

Each name is imported when it is first asked for.
"""

from flmm.lazy_exports import export_lazily

_NAMES = {
    "grounding_metrics": ("GRefSegMetric", "PngMetric", "ReasonSegMetric", "RefSegMetric"),
    "metrics": (
        *(
            "compute_accuracy_at",
            "compute_average_recall",
            "compute_ciou",
            "compute_generalised_summary",
        ),
        *("compute_intersections_unions", "compute_ious", "compute_miou", "compute_png_summary"),
        *("compute_precision_at", "compute_reasoning_summary", "compute_summary"),
    ),
    "scores": ("ExpressionScore", "Report", "build_report", "score_sample"),
}
_HOMES = {name: f"{__name__}.{home}" for home, names in _NAMES.items() for name in names}
__all__ = list(_HOMES)
__getattr__ = export_lazily(__name__, _HOMES)
