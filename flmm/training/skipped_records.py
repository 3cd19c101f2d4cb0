"""What a data set left out while it loaded, told with the figures of a test or a validation.

In: the data set of a loop and its metrics. Out: these expressions among the metrics' skipped ones,
beside those that could not be read: no figure is told without what it leaves out.
"""

from __future__ import annotations

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from flmm.data.grounding_dataset import list_datasets
from flmm.evaluation.grounding_metrics import GroundingMetric
from flmm.records import SkippedExpression
from flmm.registry import HOOKS


@HOOKS.register_module()
class SkippedRecordsHook(Hook):
    """Hands what the data set left out at load to every metric that counts expressions."""

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
