"""The metrics that mmengine's loops call: scoring, gathering, the log's table, the JSON file.

Only integers are kept per expression, each known by its id: what is reported does not depend on the
order, on the number of processes, or on samples that a sampler repeats.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from mmengine.dist import all_gather_object, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import print_log

from flmm.data.grounding_dataset import list_datasets
from flmm.distributed import call_in_main
from flmm.evaluation.metrics import (
    compute_generalised_summary,
    compute_png_summary,
    compute_reasoning_summary,
    compute_summary,
)
from flmm.evaluation.scores import (
    COARSE_PREFIX,
    Outcome,
    Report,
    build_report,
    name_columns,
    score_sample,
)
from flmm.files import replace_file
from flmm.records import SkippedExpression
from flmm.registry import HOOKS, METRICS
from flmm.tables import format_text, tabulate


class GroundingMetric(BaseMetric):
    """Base of the metrics; a subclass names its ``title``, ``measure`` and ``group_order``.

    Figures of the refined masks have plain names (``cIoU``, as mmdet's ``RefSegMetric``), those of
    the coarse masks begin with ``coarse/``. Where samples carry ``expression_kinds`` or
    ``expression_groups``, the log's table and the JSON file also have a row per kind. Samples whose
    record was skipped (meta field ``skipped``) are in no figure, but are counted and listed.

    Args:
        out_file: JSON file to be written with metrics, rows per group and counts.
        about: what that file says of the run, under ``run``.
    """

    default_prefix = ""  # plain names; None would have mmengine warn
    title: ClassVar[str]
    group_order: ClassVar[Sequence[str]] = ()
    empty_iou: ClassVar[float] = 0.0  # of an expression where both masks are empty

    @staticmethod
    @abstractmethod
    def measure(
        intersections: Sequence[int], unions: Sequence[int], gt_pixels: Sequence[int]
    ) -> dict[str, float]:
        """Figures in percent of counted pixels, one entry per expression."""

    def __init__(
        self, out_file: str | None = None, about: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.out_file, self.about = out_file, dict(about or {})

    @classmethod
    def report(cls, results: Iterable[Outcome]) -> Report:
        """The figures of any results; see :func:`flmm.evaluation.scores.build_report`."""
        return build_report(results, cls.measure, cls.group_order)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of a batch of predictions."""
        for sample in data_samples:
            self.results += score_sample(sample)

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather all processes' scores and compute the metrics, the same on every process.

        mmengine's own gathering cuts the results at ``size`` (images); ours are expressions,
        told apart by their ids.
        """
        gathered = [score for part in all_gather_object(self.results) for score in part]
        figures = call_in_main(lambda: self.compute_metrics(gathered))
        self.results.clear()
        prefix = f"{self.prefix}/" if self.prefix else ""
        return {prefix + name: value for name, value in figures.items()}

    def compute_metrics(self, results: list[Outcome]) -> dict[str, float]:
        """The metrics of all expressions; also logs the table and writes ``out_file``."""
        report = self.report(results)
        rows = report.list_rows()
        table = format_text(tabulate(rows, name_columns(rows[0])))
        print_log(f"{self.title}, percent:\n{table}\n{report.format_remarks()}", logger="current")
        if self.out_file:
            content = json.dumps(report.to_json() | {"run": self.about}, indent=2)
            replace_file(self.out_file, f"{content}\n".encode())
        return self.list_metrics(report)

    def list_metrics(self, report: Report) -> dict[str, float]:
        """What mmengine logs and picks the best checkpoint by."""
        return report.metrics


@METRICS.register_module()
class RefSegMetric(GroundingMetric):
    """Referring segmentation: cIoU, mIoU and precision@{0.5 ... 0.9}, in percent."""

    title = "Referring segmentation"

    @staticmethod
    def measure(
        intersections: Sequence[int], unions: Sequence[int], gt_pixels: Sequence[int]
    ) -> dict[str, float]:
        """See :func:`flmm.evaluation.metrics.compute_summary`."""
        return compute_summary(intersections, unions)


@METRICS.register_module()
class GRefSegMetric(GroundingMetric):
    """Generalised referring segmentation (gRefCOCO): expressions of none, one or several objects.

    gIoU, cIoU, N-acc, T-acc and precision@{0.7, 0.8, 0.9}, in percent.
    """

    title = "Generalised referring segmentation"
    measure = staticmethod(compute_generalised_summary)
    group_order = ("one", "several", "none")
    empty_iou = 1.0


@METRICS.register_module()
class ReasonSegMetric(GroundingMetric):
    """Reasoning segmentation (ReasonSeg): gIoU and cIoU in percent, of short and long queries."""

    title = "Reasoning segmentation"
    measure = staticmethod(compute_reasoning_summary)
    group_order = ("short", "long")
    empty_iou = 1.0


@METRICS.register_module()
class PngMetric(GroundingMetric):
    """Panoptic Narrative Grounding: average recall and accuracy@0.5, in percent.

    ``average_recall`` is of all phrases, ``average_recall/things`` and its like of a group.
    """

    title = "Panoptic narrative grounding"
    group_order = ("singulars", "plurals", "things", "stuff")

    @staticmethod
    def measure(
        intersections: Sequence[int], unions: Sequence[int], gt_pixels: Sequence[int]
    ) -> dict[str, float]:
        """See :func:`flmm.evaluation.metrics.compute_png_summary`."""
        return compute_png_summary(intersections, unions)

    def list_metrics(self, report: Report) -> dict[str, float]:
        """Figures of all phrases, and the average recall of every group."""
        metrics = dict(report.metrics)
        for group, figures in report.groups.items():
            for name in ("average_recall", f"{COARSE_PREFIX}average_recall"):
                if name in figures:
                    metrics[f"{name}/{group}"] = figures[name]
        return metrics


@HOOKS.register_module()
class SkippedRecordsHook(Hook):
    """Hands what the data set left out at load to every metric that counts expressions.

    No figure is told without what it leaves out.
    """

    def before_val_epoch(self, runner: Any) -> None:
        """Before a validation."""
        _tell_metrics(runner.val_loop)

    def before_test_epoch(self, runner: Any) -> None:
        """Before a test."""
        _tell_metrics(runner.test_loop)


def list_left_out(dataset: Any) -> list[SkippedExpression]:
    """Expressions that a data set, or those that mmengine's wrappers hold, left out at load."""
    return [note for item in list_datasets(dataset) for note in getattr(item, "skipped", [])]


def _tell_metrics(loop: Any) -> None:
    """Every process has loaded the same records: one of them tells."""
    if is_main_process():
        for metric in loop.evaluator.metrics:
            if isinstance(metric, GroundingMetric):
                metric.results += list_left_out(loop.dataloader.dataset)
