"""mmengine's metric for Panoptic Narrative Grounding: average recall and accuracy.

Data in: samples with ``pred_masks`` (refined), ``coarse_masks``, ``gt_masks`` and
``expression_groups``. Data out: the figures of all phrases, singulars, plurals, things and stuff,
in percent, in mmengine's metrics, as a table in the log and, if asked, as JSON.
"""

from __future__ import annotations

from flmm.evaluation.grounding_metric import GroundingMetric
from flmm.evaluation.metrics import compute_png_summary
from flmm.evaluation.scores import COARSE_PREFIX, Report
from flmm.registry import METRICS

PNG_GROUPS = ("singulars", "plurals", "things", "stuff")


@METRICS.register_module()
class PngMetric(GroundingMetric):
    """Average recall and accuracy@0.5 of refined and coarse masks, in percent.

    ``average_recall`` is of all phrases, ``average_recall/things`` and its like of a group; names
    of the coarse masks' figures begin with ``coarse/``.

    Args:
        out_file: JSON file to be written with metrics, rows per group and counts; None: none.
        **kwargs: of mmengine's ``BaseMetric``.
    """

    title = "Panoptic narrative grounding"
    measure = staticmethod(compute_png_summary)
    group_order = PNG_GROUPS

    def list_metrics(self, report: Report) -> dict[str, float]:
        """Figures of all phrases, and the average recall of every group."""
        metrics = dict(report.metrics)
        for group, figures in report.groups.items():
            for prefix in ("", COARSE_PREFIX):
                name = f"{prefix}average_recall"
                if name in figures:
                    metrics[f"{name}/{group}"] = figures[name]
        return metrics


__all__ = ["PNG_GROUPS", "PngMetric"]
