"""Two runs side by side: where one's masks are better than the other's.

In: a config, whose data sets have the true masks, and the predictions that two evaluations saved
(``--save-predictions``). Out: a table of figures over the expressions that both have, and pictures
of those where they differ most: true mask, one's, the other's. No model is run.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor
from tqdm import tqdm

from flmm.data.masks import decode_segmentation
from flmm.evaluation import compute_png_summary, compute_summary
from flmm.evaluation.metrics import compute_intersections_unions, compute_ious
from flmm.evaluation.scores import Measure
from flmm.evaluation.splits import list_narrative_splits, list_referring_splits
from flmm.records import GroundingSample
from flmm.registry import DATASETS
from flmm.tables import format_markdown, format_text
from flmm.training.example_images import (
    BEST,
    WORST,
    Example,
    ExtremeExamples,
    scale_example,
    write_examples,
)

# (data set, split, protocol)
Key = tuple[str, str, str]


@dataclass
class Compared:
    """What two runs predicted for one split under one protocol.

    Attributes:
        key: data set, split, protocol.
        measure: counted pixels to figures in percent.
        pixels: per run (intersections, unions) in px, of the expressions that both have.
        only: per run how many expressions it has alone; they are in no figure.
        examples: ranked by the second run's IoU less the first's.
    """

    key: Key
    measure: Measure
    examples: ExtremeExamples
    pixels: list[tuple[list[int], list[int]]] = field(default_factory=lambda: [([], []), ([], [])])
    only: tuple[int, int] = (0, 0)

    @property
    def ious(self) -> tuple[list[float], list[float]]:
        """Per run the IoU of each expression, in the same order."""
        first, second = (compute_ious(*pair) for pair in self.pixels)
        return first, second


def compare_runs(
    config: Config,
    runs: tuple[str | Path, str | Path],
    names: tuple[str, str],
    folder: str | Path,
    show: int = 8,
) -> str:
    """Compare two runs and write ``compare.json``, ``compare.md`` and pictures.

    Args:
        config: of an experiment, as :func:`flmm.training.load_config` gives it; its evaluation data
            sets have the true masks.
        runs: of each run a predictions file, or a folder below which they lie.
        names: what tables and pictures call them.
        folder: where the files go.
        show: pictures per split, of either direction.

    Returns:
        the table, as text.

    Raises:
        FileNotFoundError: a run has no predictions.
        ValueError: the runs have no split of the config in common, or a file is none that
            ``--save-predictions`` wrote.
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
    results = []
    for key in common:
        records = [_read_predictions(files[key]) for files in found]
        results.append(_compare_split(key, known[key[:2]], records, names, show))
    return _write(Path(folder), results, names)


def find_predictions(run: str | Path, known: Mapping[tuple[str, str], Any]) -> dict[Key, Path]:
    """The predictions of a run, by data set, split and protocol.

    Args:
        run: a file ``<data set>_<split>_<protocol>.json``, or a folder below which such lie.
        known: data sets and splits that there are.

    Raises:
        FileNotFoundError: there are none.
    """
    path = Path(run)
    files = [path] if path.is_file() else sorted(path.glob("**/predictions/*.json"))
    found: dict[Key, Path] = {}
    for file in files:
        for dataset, split in known:
            start, _, protocol = file.stem.rpartition("_")
            if start == f"{dataset}_{split}":
                found[dataset, split, protocol] = file
    if not found:
        raise FileNotFoundError(
            f"no predictions of {', '.join(map('_'.join, known))} at {path}: evaluate with "
            "--save-predictions, then give the work folder or the .json file"
        )
    return found


def _list_splits(config: Config) -> dict[tuple[str, str], tuple[dict[str, Any], Measure]]:
    """(data set, split) -> config of the data set, and what is measured on it."""
    kinds: tuple[tuple[str, Callable[..., dict[Any, Any]], Measure], ...] = (
        ("eval_datasets", list_referring_splits, compute_summary),
        ("eval_png_datasets", list_narrative_splits, compute_png_summary),
    )
    known = {
        key: (cfg, measure)
        for name, list_splits, measure in kinds
        if config.get(name)
        for key, cfg in list_splits(config).items()
    }
    if not known:
        raise ValueError(f"{config.filename} names no eval_datasets: see docs/evaluation.md")
    return known


def _read_predictions(path: Path) -> dict[Any, dict[str, Any]]:
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
    key: Key,
    split: tuple[dict[str, Any], Measure],
    records: Sequence[dict[Any, dict[str, Any]]],
    names: tuple[str, str],
    show: int,
) -> Compared:
    cfg, measure = split
    dataset = DATASETS.build({**copy.deepcopy(cfg), "test_mode": True})
    result = Compared(key, measure, ExtremeExamples(show))
    both = set(records[0]) & set(records[1])
    result.only = (len(records[0]) - len(both), len(records[1]) - len(both))
    for index in tqdm(range(len(dataset)), desc=" ".join(key), unit="image", mininterval=1):
        item = dataset[index]
        if item["inputs"] is not None:
            sample = item["data_samples"]
            rows = [row for row, name in enumerate(sample.expression_ids) if name in both]
            if rows:
                _compare_sample(result, item["inputs"].image, sample, rows, records, names)
    return result


def _compare_sample(
    result: Compared,
    image: Any,
    sample: GroundingSample,
    rows: Sequence[int],
    records: Sequence[dict[Any, dict[str, Any]]],
    names: tuple[str, str],
) -> None:
    """Add the expressions ``rows`` of one picture."""
    ids = [sample.expression_ids[row] for row in rows]
    gt_masks = sample.gt_masks[list(rows)]
    masks = [_decode([own[name] for name in ids], gt_masks) for own in records]
    counted = [compute_intersections_unions(own, gt_masks) for own in masks]
    for kept, pair in zip(result.pixels, counted):
        kept[0].extend(pair[0])
        kept[1].extend(pair[1])
    first, second = (compute_ious(*pair) for pair in counted)
    for place, name in enumerate(ids):
        value = second[place] - first[place]
        if value and result.examples.wants(value, name):
            shown = (gt_masks[place], masks[0][place], masks[1][place])
            ious = (f"{names[0]}: {first[place]:.2f}", f"{names[1]}: {second[place]:.2f}")
            scaled = scale_example(image, zip(("true mask", *ious), shown))
            words = (records[0][name]["expression"], f"{value:+.2f}   image {sample.image_id}")
            result.examples.add(Example(value, name, *words, *scaled))


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


def _build_row(result: Compared, names: tuple[str, str]) -> dict[str, Any]:
    """One line of the table."""
    row: dict[str, Any] = dict(zip(("dataset", "split", "protocol"), result.key))
    row["expressions"] = len(result.pixels[0][0])
    figures = [result.measure(*pair) for pair in result.pixels]
    for figure in list(figures[0])[:2]:
        for run, own in zip(names, figures):
            row[f"{figure} {run}"] = own[figure]
    pairs = list(zip(*result.ious))
    row[f"{names[0]} better"] = sum(first > second for first, second in pairs)
    row[f"{names[1]} better"] = sum(first < second for first, second in pairs)
    row["equal"] = sum(first == second for first, second in pairs)
    for name, count in zip(names, result.only):
        row[f"only {name}"] = count
    return row


def _write(folder: Path, results: Sequence[Compared], names: tuple[str, str]) -> str:
    """The files of a comparison; the table as text."""
    rows = []
    parts = []
    for result in results:
        rows.append(_build_row(result, names))
        inner = folder / "_".join(result.key)
        for kind, better in ((WORST, names[0]), (BEST, names[1])):
            chosen = [e for e in result.examples.list(kind) if (e.value < 0) == (kind == WORST)]
            slug = "first_better" if kind == WORST else "second_better"
            paths = write_examples(inner, slug, chosen)
            parts += [f"## {' '.join(result.key)}: {better} is better"] if paths else []
            parts += [f"![{path.stem}]({path.relative_to(folder)})" for path in paths]
    folder.mkdir(parents=True, exist_ok=True)
    cells = [list(rows[0]), *([_format(value) for value in row.values()] for row in rows)]
    table = "\n\n".join([f"# {names[0]} and {names[1]}", "Percent.", format_markdown(cells)])
    (folder / "compare.md").write_text("\n\n".join([table, *parts]) + "\n", encoding="utf-8")
    (folder / "compare.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return format_text(cells)


def _format(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


__all__ = ["Compared", "compare_runs", "find_predictions"]
