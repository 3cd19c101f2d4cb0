"""mmengine's metric for referring segmentation: cIoU, mIoU and precision@k.

Data in: samples with ``pred_masks`` (refined), ``coarse_masks`` and ``gt_masks``. Data out: the
figures of both, in percent, in mmengine's metrics, as a table in the log and, if asked, as JSON.
"""

from __future__ import annotations

from flmm.evaluation.grounding_metric import GroundingMetric
from flmm.evaluation.metrics import compute_summary
from flmm.registry import METRICS


@METRICS.register_module()
class RefSegMetric(GroundingMetric):
    """cIoU, mIoU and precision@{0.5 ... 0.9} of refined and coarse masks, in percent.

    Metrics of the refined masks have plain names (``cIoU``, as mmdet's ``RefSegMetric``), those of
    the coarse masks begin with ``coarse/``. Where samples carry ``expression_kinds`` or
    ``expression_groups``, the table in the log and the JSON file also have a row per kind.

    Args:
        out_file: JSON file to be written with metrics, rows per kind and counts; None: none.
        **kwargs: of mmengine's ``BaseMetric``.
    """

    title = "Referring segmentation"
    measure = staticmethod(compute_summary)


__all__ = ["RefSegMetric"]
