"""What tools/eval_refcoco.py and tools/eval_png.py do with a config.

In: a config and what was said on the command line. Out: a report in the work folder, the same
whatever the number of processes and interruptions. Loop: :mod:`flmm.evaluation.evaluating`,
the table in :mod:`flmm.evaluation.evaluation_report`.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.registry import init_default_scope

from flmm.checkpoints.checkpoint import load_weights
from flmm.checkpoints.chosen_weights import choose_weights, tell_weights
from flmm.data.protocols import REFER_PROTOCOLS, Protocol, ask_as_given
from flmm.distributed import init_processes
from flmm.evaluation import PNG_GROUPS, compute_png_summary, compute_summary
from flmm.evaluation.evaluating import EvaluationSplit, SplitResult, evaluate_split
from flmm.evaluation.evaluation_options import EvaluationOptions
from flmm.evaluation.evaluation_report import (
    build_rows,
    format_table,
    list_problems,
    list_skipped,
    write_report,
)
from flmm.evaluation.scores import Measure
from flmm.fingerprints import hash_file, hash_json
from flmm.provenance import describe_device, describe_model, list_versions
from flmm.registry import DATASETS, MODELS
from flmm.tables import format_text


@dataclass
class Evaluation:
    """One kind of evaluation: which data sets, asked how, measured how.

    Attributes:
        title: of the report.
        folder: of the results within the work folder.
        dataset_cfgs: (data set, split) -> config of the data set.
        protocols: by name.
        measure: counted pixels to figures in percent.
        groups: of expressions that have rows of their own in the table; none: only "all" has.
    """

    title: str
    folder: str
    dataset_cfgs: dict[tuple[str, str], dict[str, Any]]
    protocols: dict[str, Protocol]
    measure: Measure
    groups: Sequence[str] = ()


def run_refcoco_evaluation(config: Config, options: EvaluationOptions) -> dict[str, Any]:
    """Evaluate referring segmentation on the data sets in ``config.eval_datasets``.

    Returns:
        the report's content: ``title``, ``rows``, ``skipped``, ``problems``, ``run``.

    Raises:
        ValueError: a name is unknown, or no weights are named.
        FileNotFoundError: a data set's file is missing; all missing ones are listed.
    """
    cfgs = list_referring_splits(config, options.datasets, options.splits)
    return _run(
        config,
        options,
        Evaluation(
            "Referring segmentation",
            "eval_refcoco",
            cfgs,
            {name: REFER_PROTOCOLS[name] for name in options.protocols},
            compute_summary,
        ),
    )


def run_png_evaluation(config: Config, options: EvaluationOptions) -> dict[str, Any]:
    """Evaluate Panoptic Narrative Grounding on the data sets in ``config.eval_png_datasets``.

    Returns, Raises: as :func:`run_refcoco_evaluation`.
    """
    cfgs = list_narrative_splits(config, options.datasets, options.splits)
    return _run(
        config,
        options,
        Evaluation(
            "Panoptic narrative grounding",
            "eval_png",
            cfgs,
            {"narrative": ask_as_given},
            compute_png_summary,
            PNG_GROUPS,
        ),
    )


def list_referring_splits(
    config: Config, datasets: Sequence[str] | None = None, splits: Sequence[str] | None = None
) -> dict[tuple[str, str], dict[str, Any]]:
    """(data set, split) -> config of the data set, of those in ``config.eval_datasets``.

    Args:
        config: of an experiment.
        datasets, splits: names to keep; ``None``: all.

    Raises:
        ValueError: the config names none, or not these.
    """
    base = config.test_dataloader.dataset
    cfgs = {}
    for name, entry in _choose(config.get("eval_datasets"), datasets, "--datasets").items():
        for split in _choose_splits(name, entry["splits"], splits):
            changes = {"ann_file": entry["ann_file"], "split_file": entry["split_file"]}
            cfgs[name, split] = {**base, **changes, "split": split, "text_mode": "all"}
            cfgs[name, split] |= {"joined": False, "max_expressions": None}
    _check_any(cfgs, splits)
    return cfgs


def list_narrative_splits(
    config: Config, datasets: Sequence[str] | None = None, splits: Sequence[str] | None = None
) -> dict[tuple[str, str], dict[str, Any]]:
    """As :func:`list_referring_splits`, of those in ``config.eval_png_datasets``."""
    base = {"image_processor": config.test_dataloader.dataset.image_processor}
    chosen = _choose(config.get("eval_png_datasets"), datasets, "--datasets")
    cfgs = {
        (name, split): {**base, **cfg}
        for name, parts in chosen.items()
        for split, cfg in parts.items()
        if splits is None or split in splits
    }
    _check_any(cfgs, splits)
    return cfgs


def _run(config: Config, options: EvaluationOptions, evaluation: Evaluation) -> dict[str, Any]:
    """Build the model, evaluate every split, write and print the report."""
    _check_files(evaluation.dataset_cfgs)
    init_processes(config.launcher)
    init_default_scope("flmm")
    model, run = _build_model(config, options)
    folder = Path(config.work_dir) / evaluation.folder
    results = []
    for split in _build_splits(evaluation, options):
        cfg = evaluation.dataset_cfgs[split.dataset_name, split.split]
        depends_on = [config.model, run, cfg, _hash_files(cfg), sorted(split.protocols)]
        depends_on += [options.save_predictions, options.bad_records, options.one_by_one]
        depends_on.append(_choose_batch_size(config, options))
        name = f"{split.dataset_name}_{split.split}_{hash_json(depends_on)[:12]}"
        results.append(_evaluate(model, split, folder / "journal" / name, config, options))
    refined = "box + SAM" if options.baseline else "refined"
    report: dict[str, Any] = {
        "title": evaluation.title,
        "rows": build_rows(results, evaluation.measure, evaluation.groups, refined),
        "skipped": list_skipped(results),
        "problems": list_problems(results),
        "run": run | {"limit": options.limit, "processes": dist.get_world_size()},
    }
    if dist.is_main_process():
        path = Path(options.out or folder / f"{evaluation.folder}.json")
        write_report(path, report, show_groups=bool(evaluation.groups))
        if options.save_predictions:
            _write_predictions(folder / "predictions", results)
        print(format_table(report["rows"], bool(evaluation.groups), format_text))
        print(run.get("weights", f"no trained head: --baseline {options.baseline}"))
        print(f"written: {path} and {path.with_suffix('.md')}")
    dist.barrier()
    return report


def _evaluate(
    model: Any, split: EvaluationSplit, journal: Path, config: Config, options: EvaluationOptions
) -> SplitResult:
    if options.restart and dist.is_main_process():
        shutil.rmtree(journal, ignore_errors=True)
    dist.barrier()
    workers = options.num_workers
    if workers is None:
        workers = config.test_dataloader.get("num_workers", 0)
    return evaluate_split(
        *(model, split, journal, options.save_predictions, workers),
        batch_size=_choose_batch_size(config, options),
        one_by_one=options.one_by_one,
    )


def _choose_batch_size(config: Config, options: EvaluationOptions) -> int:
    """Images that are read together: as the command line says, else the config's tests."""
    return options.batch_size or config.test_dataloader.get("batch_size", 1)


def _choose(entries: dict[str, Any] | None, names: Sequence[str] | None, flag: str) -> dict:
    """The entries with the names, in the config's order."""
    if not entries:
        raise ValueError(
            "the config names no data sets to evaluate on: set eval_datasets (referring "
            "segmentation) or eval_png_datasets, see docs/evaluation.md"
        )
    unknown = sorted(set(names or ()) - set(entries))
    if unknown:
        raise ValueError(f"{flag} {', '.join(unknown)}: the config has {', '.join(entries)}")
    return {name: entry for name, entry in entries.items() if names is None or name in names}


def _choose_splits(name: str, splits: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    return [split for split in splits if wanted is None or split in wanted]


def _check_any(cfgs: dict[tuple[str, str], Any], splits: Sequence[str] | None) -> None:
    if not cfgs:
        raise ValueError(f"--splits {', '.join(splits or ())}: no chosen data set has such a split")


def _list_files(cfg: dict[str, Any]) -> list[Path]:
    """The annotation files of a data set's config."""
    keys = ("ann_file", "split_file", "panoptic_json")
    return [Path(cfg["data_root"], cfg[key]) for key in keys if cfg.get(key)]


def _check_files(cfgs: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Everything must be there before hours are spent."""
    missing = {
        str(path): f"  {path} ({name})"
        for (name, _), cfg in cfgs.items()
        for path in _list_files(cfg)
        if not path.is_file()
    }
    if missing:
        raise FileNotFoundError(
            "missing files:\n" + "\n".join(missing.values()) + "\nlay them out as docs/data.md "
            "says, give --cfg-options data_root=..., or choose others with --datasets"
        )


def _build_model(config: Config, options: EvaluationOptions) -> tuple[Any, dict[str, Any]]:
    """The model on its device, and where its figures come from."""
    run: dict[str, Any] = {"config": str(config.filename)}
    if options.baseline is None:
        weights = choose_weights(config, options.checkpoint)
        tell_weights(weights)
        model = MODELS.build(config.model)
        load_weights(model, weights.name)
        run |= weights.to_json()
    else:
        if options.checkpoint is not None:
            raise ValueError("--baseline box has no trained head: leave CHECKPOINT out")
        reader, refiner = config.model.model, config.model.get("sam")
        model = MODELS.build({"type": "BoxBaseline", "model": reader, "sam": refiner})
        run |= {"baseline": options.baseline}
    device = _choose_device(options.device)
    model.to(device).eval()
    run |= describe_model(model)
    run |= {"device": describe_device(device), "seed": config.get("randomness", {}).get("seed")}
    return model, run | {"versions": list_versions()}


def _choose_device(device: str | None) -> torch.device:
    """The given device; else this process's GPU, else the CPU."""
    if device is not None or not torch.cuda.is_available():
        return torch.device(device or "cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _build_splits(evaluation: Evaluation, options: EvaluationOptions) -> Iterator[EvaluationSplit]:
    """The splits, one data set in memory at a time."""
    for (name, split), cfg in evaluation.dataset_cfgs.items():
        cfg = {**copy.deepcopy(cfg), "test_mode": True, "bad_records": options.bad_records}
        dataset = DATASETS.build(cfg)
        yield EvaluationSplit(name, split, dataset, evaluation.protocols, options.limit)


def _hash_files(cfg: dict[str, Any]) -> list[str]:
    return [hash_file(path) for path in _list_files(cfg)]


def _write_predictions(folder: Path, results: Sequence[SplitResult]) -> None:
    """``<data set>_<split>_<protocol>.json``: a list of COCO-style records."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        for protocol, records in result.predictions.items():
            path = folder / f"{result.dataset_name}_{result.split}_{protocol}.json"
            path.write_text(json.dumps(records) + "\n", encoding="utf-8")


__all__ = [
    "list_narrative_splits",
    "list_referring_splits",
    "run_png_evaluation",
    "run_refcoco_evaluation",
]
