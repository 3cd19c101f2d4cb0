"""mmengine's metric for referring segmentation: collects counted pixels, reports percent.

Data in: samples with ``pred_masks`` (refined), ``coarse_masks`` and ``gt_masks``. Data out: cIoU,
mIoU and precision@k of both, in mmengine's metrics, as a table in the log and, if asked, as JSON.
Only integers are kept per expression, each known by its id: what is reported does not depend on
the order, on the number of processes, or on samples that a sampler repeats to fill a batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from flmm.evaluation.metrics import compute_intersections_unions, compute_summary
from flmm.registry import METRICS

COARSE_PREFIX = "coarse/"


class ExpressionScore(NamedTuple):
    """Counted pixels of one expression."""

    expression_id: int | str
    kind: str | None
    refined: tuple[int, int]
    coarse: tuple[int, int] | None


@METRICS.register_module()
class RefSegMetric(BaseMetric):
    """cIoU, mIoU and precision@{0.5 ... 0.9} of refined and coarse masks, in percent.

    Metrics of the refined masks have plain names (``cIoU``, as mmdet's ``RefSegMetric``), those of
    the coarse masks begin with ``coarse/``. Where samples carry ``expression_kinds``, the table in
    the log and the JSON file also have a row per kind.

    Args:
        out_file: JSON file to be written with metrics, rows per kind and counts; None: none.
        **kwargs: of mmengine's ``BaseMetric``.
    """

    default_prefix = ""  # plain names; None would have mmengine warn

    def __init__(self, out_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.out_file = out_file

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of a batch of predictions.

        Raises:
            ValueError: predicted and true masks of a sample differ in shape, or the number of
                ``expression_ids`` in it is not the number of masks.
        """
        for sample in data_samples:
            self.results += _score_sample(sample)

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

    def compute_metrics(self, results: list[ExpressionScore]) -> dict[str, float]:
        """The metrics of all expressions; also logs the table and writes ``out_file``.

        Raises:
            ValueError: there is no result.
        """
        scores = list({score.expression_id: score for score in results}.values())
        if not scores:
            raise ValueError("RefSegMetric saw no prediction: is the data set empty?")
        metrics = summarise(scores)
        kinds = sorted({score.kind for score in scores if score.kind is not None})
        by_kind = {kind: [score for score in scores if score.kind == kind] for kind in kinds}
        rows = {kind: summarise(group) for kind, group in by_kind.items()}
        counts = {"all": len(scores)} | {kind: len(group) for kind, group in by_kind.items()}
        print_log(format_table({"all": metrics} | rows, counts), logger="current")
        if self.out_file:
            content = {"metrics": metrics, "kinds": rows, "expressions": counts}
            Path(self.out_file).parent.mkdir(parents=True, exist_ok=True)
            Path(self.out_file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return metrics


def summarise(scores: Sequence[ExpressionScore]) -> dict[str, float]:
    """Metrics in percent of the refined masks and, with ``coarse/``, of the coarse ones."""
    metrics = compute_summary(*zip(*(score.refined for score in scores)))
    if all(score.coarse is not None for score in scores):
        coarse = compute_summary(*zip(*(score.coarse for score in scores)))
        metrics |= {COARSE_PREFIX + key: value for key, value in coarse.items()}
    return metrics


def format_table(rows: dict[str, dict[str, float]], counts: dict[str, int]) -> str:
    """A text table: one line per kind of expression and stage of the mask, percent."""
    first = next(iter(rows.values()))
    names = [name for name in first if not name.startswith(COARSE_PREFIX)]
    titles = [name.replace("precision@", "P@") for name in names]
    width = max(len("expressions"), *map(len, rows))
    lines = [
        f"{'expressions':{width}} {'count':>7} {'mask':>8}" + "".join(f"{t:>8}" for t in titles)
    ]
    for kind, row in rows.items():
        for stage, prefix in (("refined", ""), ("coarse", COARSE_PREFIX)):
            if prefix + names[0] in row:
                cells = "".join(f"{row[prefix + name]:8.2f}" for name in names)
                lines.append(f"{kind:{width}} {counts[kind]:7d} {stage:>8}{cells}")
    return "Referring segmentation, percent:\n" + "\n".join(lines)


def _score_sample(sample: dict[str, Any]) -> list[ExpressionScore]:
    """One score per expression of an image."""
    ids, gt_masks = sample["expression_ids"], sample["gt_masks"]
    if len(ids) != len(gt_masks):
        raise ValueError(f"{len(ids)} expression_ids for {len(gt_masks)} true masks")
    kinds = sample.get("expression_kinds") or [None] * len(ids)
    refined = list(zip(*compute_intersections_unions(sample["pred_masks"], gt_masks)))
    coarse: list[Any] = [None] * len(ids)
    if sample.get("coarse_masks") is not None:
        coarse = list(zip(*compute_intersections_unions(sample["coarse_masks"], gt_masks)))
    return [ExpressionScore(*fields) for fields in zip(ids, kinds, refined, coarse)]


__all__ = ["ExpressionScore", "RefSegMetric", "format_table", "summarise"]
