"""What tools/eval_refcoco.py and tools/eval_png.py do with a config.

In: a config and what was said on the command line. Out: a report in the work folder, the same
whatever the number of processes and interruptions. Loop: :mod:`flmm.evaluation.evaluating`,
the table in :mod:`flmm.evaluation.evaluation_report`.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
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
from flmm.evaluation.evaluating import EvaluationSplit, SplitResult, evaluate_split
from flmm.evaluation.evaluation_options import EvaluationOptions
from flmm.evaluation.evaluation_report import (
    build_rows,
    format_rows,
    list_left_out,
    write_report,
)
from flmm.evaluation.grounding_metrics import PNG_GROUPS
from flmm.evaluation.metrics import compute_png_summary, compute_summary
from flmm.evaluation.scores import Measure
from flmm.evaluation.splits import (
    SplitCfgs,
    check_files,
    list_files,
    list_narrative_splits,
    list_referring_splits,
)
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
    dataset_cfgs: SplitCfgs
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
    protocols = {name: REFER_PROTOCOLS[name] for name in options.protocols}
    kind = "Referring segmentation", "eval_refcoco"
    return _run(config, options, Evaluation(*kind, cfgs, protocols, compute_summary))


def run_png_evaluation(config: Config, options: EvaluationOptions) -> dict[str, Any]:
    """Evaluate Panoptic Narrative Grounding on the data sets in ``config.eval_png_datasets``.

    Returns, Raises: as :func:`run_refcoco_evaluation`.
    """
    cfgs = list_narrative_splits(config, options.datasets, options.splits)
    protocols: dict[str, Protocol] = {"narrative": ask_as_given}
    kind = "Panoptic narrative grounding", "eval_png"
    evaluation = Evaluation(*kind, cfgs, protocols, compute_png_summary, PNG_GROUPS)
    return _run(config, options, evaluation)


def _run(config: Config, options: EvaluationOptions, evaluation: Evaluation) -> dict[str, Any]:
    """Build the model, evaluate every split, write and print the report."""
    check_files(evaluation.dataset_cfgs)
    init_processes(config.launcher)
    init_default_scope("flmm")
    options = options.fill(config.test_dataloader)
    model, run = _build_model(config, options)
    folder = Path(config.work_dir) / evaluation.folder
    results = [
        _evaluate_split(model, names, evaluation, options, folder / "journal", [config.model, run])
        for names in evaluation.dataset_cfgs
    ]
    refined = "box + SAM" if options.baseline else "refined"
    report: dict[str, Any] = {
        "title": evaluation.title,
        "rows": build_rows(results, evaluation.measure, evaluation.groups, refined),
        **list_left_out(results),
        "run": run | {"limit": options.limit, "processes": dist.get_world_size()},
    }
    if dist.is_main_process():
        path = Path(options.out or folder / f"{evaluation.folder}.json")
        write_report(path, report, show_groups=bool(evaluation.groups))
        if options.save_predictions:
            _write_predictions(folder / "predictions", results)
        print(format_rows(report["rows"], bool(evaluation.groups), format_text))
        print(run.get("weights", f"no trained head: --baseline {options.baseline}"))
        print(f"written: {path} and {path.with_suffix('.md')}")
    dist.barrier()
    return report


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
    device = torch.device(options.device or "cpu")
    if options.device is None and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())  # this process's
    model.to(device).eval()
    run |= describe_model(model)
    run |= {"device": describe_device(device), "seed": config.get("randomness", {}).get("seed")}
    return model, run | {"versions": list_versions()}


def _evaluate_split(
    model: Any,
    names: tuple[str, str],
    evaluation: Evaluation,
    options: EvaluationOptions,
    folder: Path,
    origin: list[Any],
) -> SplitResult:
    """Evaluate one split under a journal whose name changes with all that decides its figures.

    One data set is in memory at a time.
    """
    cfg = evaluation.dataset_cfgs[names]
    depends_on = [*origin, cfg, [hash_file(path) for path in list_files(cfg)]]
    depends_on += [sorted(evaluation.protocols), options.save_predictions, options.bad_records]
    depends_on += [options.one_by_one, options.batch_size]
    journal = folder / "_".join([*names, hash_json(depends_on)[:12]])
    if options.restart and dist.is_main_process():
        shutil.rmtree(journal, ignore_errors=True)
    dist.barrier()
    changes = {"test_mode": True, "bad_records": options.bad_records}
    dataset = DATASETS.build({**copy.deepcopy(cfg), **changes})
    return evaluate_split(
        model,
        EvaluationSplit(*names, dataset, evaluation.protocols, options.limit),
        journal,
        options.save_predictions,
        options.num_workers or 0,
        options.batch_size or 1,
        options.one_by_one,
    )


def _write_predictions(folder: Path, results: Sequence[SplitResult]) -> None:
    """``<data set>_<split>_<protocol>.json``: a list of COCO-style records."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        for protocol, records in result.predictions.items():
            path = folder / f"{result.dataset_name}_{result.split}_{protocol}.json"
            path.write_text(json.dumps(records) + "\n", encoding="utf-8")
