"""What the metrics of mmengine's loops share: scoring, gathering, the log's table, the JSON file.

Data in: predicted samples as dicts. Data out: figures in percent. Only integers are kept per
expression, each known by its id: what is reported does not depend on the order, on the number of
processes, or on samples that a sampler repeats to fill a batch.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from flmm.evaluation.scores import (
    ExpressionScore,
    Report,
    build_report,
    score_sample,
)
from flmm.evaluation.tables import build_rows, format_remarks
from flmm.records import SkippedExpression
from flmm.tables import format_text


class GroundingMetric(BaseMetric):
    """Base of the metrics; a subclass names its ``title``, ``measure`` and ``group_order``.

    Samples whose record was skipped (meta field ``skipped``) are in no figure; their number is in
    the table, the first reasons in the log, and all of them in the JSON file.

    Args:
        out_file: JSON file to be written with metrics, rows per group and counts; None: none.
        about: what that file says of the run, under ``run``.
        **kwargs: of mmengine's ``BaseMetric``.
    """

    default_prefix = ""  # plain names; None would have mmengine warn
    title: ClassVar[str]
    group_order: ClassVar[Sequence[str]] = ()

    @staticmethod
    @abstractmethod
    def measure(intersections: Sequence[int], unions: Sequence[int]) -> dict[str, float]:
        """Figures in percent of counted pixels, one entry per expression."""

    def __init__(
        self,
        out_file: str | None = None,
        about: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.out_file, self.about = out_file, dict(about or {})

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of a batch of predictions.

        Raises:
            ValueError: predicted and true masks of a sample differ in shape, or the number of
                ``expression_ids`` in it is not the number of masks.
        """
        for sample in data_samples:
            self.results += score_sample(sample)

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather all processes' scores and compute the metrics, the same on every process.

        mmengine's own gathering cuts the results at ``size`` (images); ours are expressions,
        told apart by their ids.
        """
        gathered = [score for part in all_gather_object(self.results) for score in part]
        metrics: list[Any] = [None]
        if is_main_process():
            metrics = [self.compute_metrics(gathered)]
            if self.prefix:
                metrics = [{f"{self.prefix}/{key}": value for key, value in metrics[0].items()}]
        broadcast_object_list(metrics)
        self.results.clear()
        return metrics[0]

    def compute_metrics(
        self, results: list[ExpressionScore | SkippedExpression]
    ) -> dict[str, float]:
        """The metrics of all expressions; also logs the table and writes ``out_file``.

        Raises:
            ValueError: there is no result.
        """
        report = build_report(results, self.measure, self.group_order)
        table = f"{self.title}, percent:\n{format_text(build_rows(report))}"
        print_log(f"{table}\n{format_remarks(report)}", logger="current")
        if self.out_file:
            content = json.dumps(report.to_json() | {"run": self.about}, indent=2)
            Path(self.out_file).parent.mkdir(parents=True, exist_ok=True)
            Path(self.out_file).write_text(content + "\n", encoding="utf-8")
        return self.list_metrics(report)

    def list_metrics(self, report: Report) -> dict[str, float]:
        """What mmengine logs and picks the best checkpoint by."""
        return report.metrics


__all__ = ["GroundingMetric"]
