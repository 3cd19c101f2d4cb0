"""What tools/eval_refcoco.py and tools/eval_png.py do with a config: a report in its work folder.

It is the same whatever the number of processes and interruptions.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.registry import init_default_scope

from flmm.checkpoints.chosen_weights import choose_weights, tell_weights
from flmm.data.samples import REFER_PROTOCOLS, Protocol, ask_as_given
from flmm.distributed import init_processes
from flmm.evaluation.evaluating import EvaluationSplit, SplitResult, evaluate_split
from flmm.evaluation.evaluation_options import EvaluationOptions
from flmm.evaluation.grounding_metrics import GroundingMetric, PngMetric, RefSegMetric
from flmm.evaluation.scores import name_columns
from flmm.evaluation.splits import (
    SplitCfgs,
    check_files,
    list_files,
    list_narrative_splits,
    list_referring_splits,
)
from flmm.files import replace_file
from flmm.fingerprints import hash_file, hash_json
from flmm.provenance import describe_device, describe_model, list_versions
from flmm.registry import DATASETS, MODELS
from flmm.tables import Rows, format_markdown, format_text, tabulate

Row = dict[str, Any]
NAMED_REASONS = 20
# Columns that the table leaves out where they are zero in every row.
RARE = ("empty_truths", "no_box")


def run_refcoco_evaluation(config: Config, options: EvaluationOptions) -> dict[str, Any]:
    """Evaluate referring segmentation on the data sets in ``config.eval_datasets``.

    Returns:
        the report's content: ``title``, ``rows``, ``skipped``, ``problems``, ``run``.

    Raises:
        ValueError: a name is unknown, or no weights are named.
        FileNotFoundError: a data set's file is missing.
    """
    cfgs = list_referring_splits(config, options.datasets, options.splits)
    protocols = {name: REFER_PROTOCOLS[name] for name in options.protocols}
    return _run(config, options, RefSegMetric, "eval_refcoco", cfgs, protocols)


def run_png_evaluation(config: Config, options: EvaluationOptions) -> dict[str, Any]:
    """The same for Panoptic Narrative Grounding, on those in ``config.eval_png_datasets``."""
    cfgs = list_narrative_splits(config, options.datasets, options.splits)
    return _run(config, options, PngMetric, "eval_png", cfgs, {"narrative": ask_as_given})


def _run(
    config: Config,
    options: EvaluationOptions,
    metric: type[GroundingMetric],
    name: str,
    cfgs: SplitCfgs,
    protocols: dict[str, Protocol],
) -> dict[str, Any]:
    """Build the model, evaluate every split, write and print the report ``name``."""
    check_files(cfgs)
    init_processes(config.launcher)
    init_default_scope("flmm")
    options = options.fill(config.test_dataloader)
    model, run = _build_model(config, options)
    folder = Path(config.work_dir) / name
    results = []
    for names, cfg in cfgs.items():
        journal = folder / "journal" / "_".join(names)
        origin = [config.model, run, cfg, [hash_file(path) for path in list_files(cfg)]]
        journal = _open_journal(journal, [*origin, sorted(protocols)], options)
        results.append(_evaluate_split(model, names, cfg, protocols, journal, options))
    report: dict[str, Any] = {
        "title": metric.title,
        "rows": build_rows(results, metric, "box + SAM" if options.baseline else "refined"),
        **list_left_out(results),
        "run": run | {"limit": options.limit, "processes": dist.get_world_size()},
    }
    if dist.is_main_process():
        path = Path(options.out or folder / f"{name}.json")
        has_groups = bool(metric.group_order)
        write_report(path, report, has_groups)
        if options.save_predictions:
            _write_predictions(folder / "predictions", results)
        print(format_rows(report["rows"], has_groups, format_text))
        print(run.get("weights", f"no trained head: --baseline {options.baseline}"))
        print(f"written: {path} and {path.with_suffix('.md')}")
    dist.barrier()
    return report


def _open_journal(path: Path, origin: list[Any], options: EvaluationOptions) -> Path:
    """The folder of a split's journal; its name changes with all that decides the figures."""
    chosen = [options.save_predictions, options.bad_records, options.one_by_one, options.batch_size]
    folder = path.with_name(f"{path.name}_{hash_json([*origin, *chosen])[:12]}")
    if options.restart and dist.is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
    dist.barrier()
    return folder


def _evaluate_split(
    model: Any,
    names: tuple[str, str],
    cfg: dict[str, Any],
    protocols: dict[str, Protocol],
    journal: Path,
    options: EvaluationOptions,
) -> SplitResult:
    """Evaluate one split, whose data set is in memory no longer than that."""
    changes = {"test_mode": True, "bad_records": options.bad_records}
    dataset = DATASETS.build({**copy.deepcopy(cfg), **changes})
    split = EvaluationSplit(*names, dataset, protocols, options.limit)
    given = options.save_predictions, options.num_workers or 0, options.batch_size or 1
    return evaluate_split(model, split, journal, *given, options.one_by_one)


def _build_model(config: Config, options: EvaluationOptions) -> tuple[Any, dict[str, Any]]:
    """The model on its device, and where its figures come from."""
    run: dict[str, Any] = {"config": str(config.filename)}
    if options.baseline is None:
        weights = choose_weights(config, options.checkpoint)
        tell_weights(weights)
        model = MODELS.build(config.model)
        weights.load(model)
        run |= weights.to_json()
    else:
        if options.checkpoint is not None:
            raise ValueError("--baseline box has no trained head: leave CHECKPOINT out")
        reader, refiner = config.model.model, config.model.get("sam")
        model = MODELS.build({"type": "BoxBaseline", "model": reader, "sam": refiner})
        run |= {"baseline": options.baseline}
    device = torch.device(options.device or "cpu")
    if options.device is None and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())  # this process's
    model.to(device).eval()
    run |= describe_model(model)
    run |= {"device": describe_device(device), "seed": config.get("randomness", {}).get("seed")}
    return model, run | {"versions": list_versions()}


def _write_predictions(folder: Path, results: Sequence[SplitResult]) -> None:
    """``<data set>_<split>_<protocol>.json``: a list of COCO-style records."""
    for result in results:
        for protocol, records in result.predictions.items():
            path = folder / f"{result.dataset_name}_{result.split}_{protocol}.json"
            replace_file(path, f"{json.dumps(records)}\n".encode())


def build_rows(
    results: Sequence[SplitResult], metric: type[GroundingMetric], refined: str
) -> list[Row]:
    """One row per split, protocol, group of expressions and stage of the mask, in percent.

    Args:
        refined: what the table calls the final masks ("refined", "box + SAM").
    """
    rows = []
    for result in results:
        named = {"dataset": result.dataset_name, "split": result.split}
        speed = result.computed / result.seconds if result.computed and result.seconds else None
        for protocol, scores in result.scores.items():
            if scores or result.skipped:
                report = metric.report([*scores, *result.skipped])
                counts = {
                    "images": result.images,
                    "skipped": len(report.skipped),
                    "empty_truths": report.empty_truths,
                    "no_box": len(result.problems[protocol]),
                    "expressions_per_second": speed,
                }
                for row in report.list_rows(refined):
                    rows.append({**named, "protocol": protocol, **row, **counts})
    return rows


def list_left_out(results: Sequence[SplitResult]) -> dict[str, list[Row]]:
    """``skipped``: every expression in no figure; ``problems``: masks empty for a reason."""
    left_out: dict[str, list[Row]] = {"skipped": [], "problems": []}
    for result in results:
        named = {"dataset": result.dataset_name, "split": result.split}
        left_out["skipped"] += [named | asdict(item) for item in result.skipped]
        for protocol, problems in result.problems.items():
            left_out["problems"] += [
                {**named, "protocol": protocol, "expression_id": key, "reason": reason}
                for key, reason in problems
            ]
    return left_out


def format_rows(rows: Sequence[Row], show_groups: bool, write: Callable[[Rows], str]) -> str:
    """The rows as a table of :mod:`flmm.tables`; without groups those of all expressions alone."""
    rows = [row for row in rows if show_groups or row["group"] == "all"]
    if not rows:
        return "(nothing was evaluated)"
    hidden = {name for name in RARE if not any(row[name] for row in rows)}
    hidden |= set() if show_groups else {"group"}
    return write(tabulate(rows, name_columns(name for name in rows[0] if name not in hidden)))


def write_report(path: Path, content: Row, show_groups: bool) -> None:
    """Write ``path`` (JSON) and the same as Markdown beside it.

    Args:
        content: ``title``, ``rows``, ``skipped``, ``problems`` and ``run`` (the figures' origin).
    """
    table = format_rows(content["rows"], show_groups, format_markdown)
    parts = [f"# {content['title']}", "Percent.", table]
    parts += _format_reasons("Skipped expressions, in no figure above:", content["skipped"])
    parts += _format_reasons("Counted as empty masks:", content["problems"])
    run = content["run"]
    lines = [f"- {key}: {value}" for key, value in run.items() if key != "versions"]
    lines += [f"- {name} {version}" for name, version in run["versions"].items()]
    replace_file(path, f"{json.dumps(content, indent=2)}\n".encode())
    text = "\n\n".join([*parts, "\n".join(lines)])
    replace_file(path.with_suffix(".md"), f"{text}\n".encode())


def _format_reasons(words: str, items: Sequence[Row]) -> list[str]:
    lines = [
        f"- {item['dataset']} {item['split']}, {item['expression_id']}: {item['reason']}"
        for item in items[:NAMED_REASONS]
    ]
    if len(items) > NAMED_REASONS:
        lines.append(f"- and {len(items) - NAMED_REASONS} more, all in the JSON file")
    return [words, "\n".join(lines)] if items else []
