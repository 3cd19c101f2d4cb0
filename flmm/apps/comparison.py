"""Two runs side by side: where one's masks are better than the other's.

Out: a table of figures over the expressions that both have, and pictures of those where they differ
most: true mask, one's, the other's. No model is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor
from tqdm import tqdm

from flmm.data.masks import decode_segmentation
from flmm.evaluation.grounding_metrics import GroundingMetric
from flmm.evaluation.metrics import compute_ious
from flmm.evaluation.protocols import PROTOCOLS
from flmm.evaluation.scores import ExpressionScore, score_expressions
from flmm.evaluation.splits import SplitCfgs, list_narrative_splits, list_referring_splits
from flmm.files import replace_file
from flmm.registry import DATASETS
from flmm.tables import format_markdown, format_text, tabulate
from flmm.training.example_images import (
    BEST,
    WORST,
    Example,
    ExtremeExamples,
    scale_example,
    write_examples,
)

# True masks by the share of the picture that they are less than, smallest first.
SIZES = {"< 2 %": 0.02, "2-5 %": 0.05, ">= 5 %": 2.0}
# (data set, split, protocol)
Key = tuple[str, str, str]
Records = dict[Any, dict[str, Any]]


def compare_runs(
    config: Config,
    runs: tuple[str | Path, str | Path],
    names: tuple[str, str],
    folder: str | Path,
    show: int = 8,
) -> str:
    """Compare two runs and write ``compare.json``, ``compare.md`` and pictures; gives the table.

    It has a row for all expressions of a split and one for each size of their objects.

    Args:
        config: of an experiment; its evaluation data sets have the true masks.
        runs: of each run a file that ``--save-predictions`` wrote, or a folder that holds them.
        names: what tables and pictures call them.
        show: pictures per split, of either direction.

    Raises:
        FileNotFoundError: a run has no predictions.
        ValueError: the runs have no split of the config in common, or a file is broken.
    """
    init_default_scope("flmm")
    known = _list_splits(config)
    found = [find_predictions(run, known) for run in runs]
    common = [key for key in found[0] if key in found[1]]
    if not common:
        one, other = (", ".join(map("_".join, files)) for files in found)
        raise ValueError(
            f"{runs[0]} has predictions of {one}, {runs[1]} of {other}: evaluate both on the same "
            "split under the same protocol, with --save-predictions"
        )
    folder, rows, parts = Path(folder), [], []
    for key in common:
        records = [_read_predictions(files[key]) for files in found]
        scores, examples = _compare_split(known[key[:2]], key, records, names, show)
        row = dict(zip(("dataset", "split", "protocol"), key))
        both = len(set(records[0]) & set(records[1]))
        only = {f"only {run}": len(own) - both for run, own in zip(names, records)}
        for size in ("all", *SIZES):
            own = [[score for score in run if size in ("all", *score.groups)] for run in scores]
            if own[0]:
                figures = _build_figures(PROTOCOLS[key[2]].metric, own, names)
                rows.append(row | {"object": size} | figures | (only if size == "all" else {}))
        parts += _write_examples(examples, folder, key, names)
    table = tabulate(rows)
    page = [f"# {names[0]} and {names[1]}", "Percent.", format_markdown(table), *parts]
    replace_file(folder / "compare.md", ("\n\n".join(page) + "\n").encode())
    replace_file(folder / "compare.json", (json.dumps(rows, indent=2) + "\n").encode())
    return format_text(table)


def find_predictions(run: str | Path, known: Mapping[tuple[str, str], Any]) -> dict[Key, Path]:
    """The predictions of a run, a file or a folder of them, by data set, split and protocol."""
    path = Path(run)
    files = [path] if path.is_file() else sorted(path.glob("**/predictions/*.json"))
    files = files or sorted(path.glob("*.json"))  # of another way: predictions_box, ...
    found: dict[Key, Path] = {}
    for file in files:
        for dataset, split in known:
            start, _, protocol = file.stem.rpartition("_")
            if start == f"{dataset}_{split}" and protocol in PROTOCOLS:
                found[dataset, split, protocol] = file
    if not found:
        raise FileNotFoundError(
            f"no predictions of {', '.join(map('_'.join, known))} at {path}: evaluate with "
            "--save-predictions, then give the work folder or the .json file"
        )
    return found


def _list_splits(config: Config) -> SplitCfgs:
    """Of all data sets that the config names."""
    known: SplitCfgs = {}
    if config.get("eval_datasets"):
        known |= list_referring_splits(config, list(config.eval_datasets))
    if config.get("eval_png_datasets"):
        known |= list_narrative_splits(config)
    if not known:
        raise ValueError(f"{config.filename} names no eval_datasets: see docs/evaluation.md")
    return known


def _read_predictions(path: Path) -> Records:
    """Expression id -> record."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        return {record["expression_id"]: record for record in records}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no file of predictions ({type(error).__name__}: {error}): give one that "
            "--save-predictions wrote"
        ) from error


def _compare_split(
    cfg: dict[str, Any],
    key: Key,
    records: Sequence[Records],
    names: tuple[str, str],
    show: int,
) -> tuple[list[list[ExpressionScore]], ExtremeExamples]:
    """Scores per run of the expressions that both have, and examples.

    The examples are ranked by the second run's IoU less the first's.
    """
    dataset = DATASETS.build({**cfg, "test_mode": True})
    both = set(records[0]) & set(records[1])
    scores: list[list[ExpressionScore]] = [[], []]
    examples = ExtremeExamples(show)
    for index in tqdm(range(len(dataset)), desc=" ".join(key), unit="image", mininterval=1):
        item = dataset[index]
        sample = item["data_samples"]
        rows = [row for row, known in enumerate(sample.expression_ids) if known in both]
        if item["inputs"] is None or not rows:
            continue
        ids = [sample.expression_ids[row] for row in rows]
        gt_masks = sample.gt_masks[rows]
        masks = [_decode([own[known] for known in ids], gt_masks) for own in records]
        asked = {"expression_ids": ids, "gt_masks": gt_masks, "ignored": sample.get("ignored")}
        shares = gt_masks.flatten(1).float().mean(1).tolist()
        asked["expression_groups"] = [(_name_size(share),) for share in shares]
        counted = [score_expressions({**asked, "pred_masks": own}) for own in masks]
        for kept, own in zip(scores, counted):
            kept += own
        first, second = (_compute_ious(own, PROTOCOLS[key[2]].metric) for own in counted)
        for place, known in enumerate(ids):
            value = second[place] - first[place]
            if value and examples.wants(value, known):
                ious = (f"{names[0]}: {first[place]:.2f}", f"{names[1]}: {second[place]:.2f}")
                shown = (gt_masks[place], masks[0][place], masks[1][place])
                scaled = scale_example(item["inputs"].image, zip(("true mask", *ious), shown))
                words = (records[0][known]["expression"], f"{value:+.2f}   image {sample.image_id}")
                examples.add(Example(value, known, *words, *scaled))
    return scores, examples


def _decode(records: Sequence[dict[str, Any]], gt_masks: Tensor) -> Tensor:
    """Bool ``[P, H, W]`` of predictions, which must be of the picture's size."""
    size = (gt_masks.shape[-2], gt_masks.shape[-1])
    masks = []
    for record in records:
        try:
            masks.append(torch.from_numpy(decode_segmentation(record["segmentation"], *size)))
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"prediction of expression {record['expression_id']} cannot be compared: {error}"
            ) from error
    return torch.stack(masks)


def _name_size(share: float) -> str:
    return next(name for name, limit in SIZES.items() if share < limit)


def _compute_ious(scores: Sequence[ExpressionScore], metric: type[GroundingMetric]) -> list[float]:
    intersections, unions = zip(*(score.refined for score in scores))
    return compute_ious(intersections, unions, metric.empty_iou)


def _build_figures(
    metric: type[GroundingMetric],
    scores: Sequence[list[ExpressionScore]],
    names: tuple[str, str],
) -> dict[str, Any]:
    """One line of the table."""
    row: dict[str, Any] = {"expressions": len(scores[0])}
    figures = [metric.report(own).metrics for own in scores]
    known = list(figures[0])
    for figure in [*known[:2], *(name for name in known if name == "precision@0.9")]:
        row |= {f"{figure} {run}": own[figure] for run, own in zip(names, figures)}
    pairs = list(zip(*(_compute_ious(own, metric) for own in scores)))
    row[f"{names[0]} better"] = sum(first > second for first, second in pairs)
    row[f"{names[1]} better"] = sum(first < second for first, second in pairs)
    row["equal"] = sum(first == second for first, second in pairs)
    return row


def _write_examples(
    examples: ExtremeExamples, folder: Path, key: Key, names: tuple[str, str]
) -> list[str]:
    """Pictures of either direction; gives their part of the page."""
    parts = []
    for kind, better, slug in ((WORST, names[0], "first"), (BEST, names[1], "second")):
        chosen = [item for item in examples.list(kind) if (item.value < 0) == (kind == WORST)]
        paths = write_examples(folder / "_".join(key), f"{slug}_better", chosen)
        parts += [f"## {' '.join(key)}: {better} is better"] if paths else []
        parts += [f"![{path.stem}]({path.relative_to(folder)})" for path in paths]
    return parts
