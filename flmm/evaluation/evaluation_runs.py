"""What tools/eval_refcoco.py and tools/eval_png.py do with a config: a report in its work folder.

It is the same whatever the number of processes and interruptions.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.registry import init_default_scope

from flmm.checkpoints.chosen_weights import choose_weights, tell_weights
from flmm.distributed import init_processes
from flmm.evaluation.evaluating import EvaluationSplit, SplitResult, evaluate_split
from flmm.evaluation.evaluation_options import EvaluationOptions
from flmm.evaluation.grounding_metrics import PngMetric, RefSegMetric
from flmm.evaluation.published_figures import list_published
from flmm.evaluation.report_tables import (
    PUBLISHED_WORDS,
    build_rows,
    format_rows,
    list_left_out,
    write_report,
)
from flmm.evaluation.splits import (
    SplitCfgs,
    check_files,
    get_protocols,
    list_files,
    list_narrative_splits,
    list_referring_splits,
)
from flmm.files import replace_file
from flmm.fingerprints import hash_file, hash_json
from flmm.head_choice import HeadChoice
from flmm.presence import PresenceWeights
from flmm.provenance import describe_device, describe_model, list_versions
from flmm.registry import DATASETS, MODELS
from flmm.tables import format_text, tabulate


def run_refcoco_evaluation(config: Config, options: EvaluationOptions) -> dict[str, Any]:
    """Evaluate referring segmentation on the data sets in ``config.eval_datasets``.

    Returns:
        the report's content, see :func:`flmm.evaluation.report_tables.write_report`.

    Raises:
        ValueError: a name is unknown, or no weights are named.
        FileNotFoundError: a data set's file is missing.
    """
    cfgs = list_referring_splits(config, options.datasets, options.splits)
    return _run(config, options, "eval_refcoco", RefSegMetric.title, cfgs)


def run_png_evaluation(config: Config, options: EvaluationOptions) -> dict[str, Any]:
    """The same for Panoptic Narrative Grounding, on those in ``config.eval_png_datasets``."""
    cfgs = list_narrative_splits(config, options.datasets, options.splits)
    options = replace(options, protocols=("narrative",))
    return _run(config, options, "eval_png", PngMetric.title, cfgs)


def _run(
    config: Config,
    options: EvaluationOptions,
    name: str,
    title: str,
    cfgs: SplitCfgs,
) -> dict[str, Any]:
    """Build the model, evaluate every split, write and print the report ``name``."""
    check_files(cfgs)
    protocols = {key: get_protocols(config, key, options.protocols) for key, _ in cfgs}
    init_processes(config.launcher)
    init_default_scope("flmm")
    options = options.fill(config.test_dataloader)
    model, run = _build_model(config, options)
    folder = Path(config.work_dir) / name
    results = []
    for names, cfg in cfgs.items():
        journal = folder / "journal" / "_".join(names)
        origin = [
            config.model,
            _list_rules(model),
            run,
            cfg,
            [hash_file(path) for path in list_files(cfg)],
        ]
        asked = protocols[names[0]]
        journal = _open_journal(journal, [*origin, sorted(asked)], options)
        results.append(_evaluate_split(model, names, cfg, asked, journal, options))
    rows = build_rows(results, "box + SAM" if options.baseline else "refined")
    report: dict[str, Any] = {
        "title": title,
        "rows": rows,
        "published": list_published(rows),
        **list_left_out(results),
        "run": run | {"limit": options.limit, "processes": dist.get_world_size()},
    }
    if dist.is_main_process():
        path = Path(options.out or folder / f"{name}.json")
        write_report(path, report)
        if options.save_predictions:
            _write_predictions(folder / "predictions", results)
        print(format_rows(rows, format_text))
        if report["published"]:
            print(f"{PUBLISHED_WORDS}\n{format_text(tabulate(report['published']))}")
        print(run.get("weights", f"no trained head: --baseline {options.baseline}"))
        print(f"written: {path} and {path.with_suffix('.md')}")
    dist.barrier()
    return report


def _list_rules(model: Any) -> list[dict[str, Any]]:
    """What small files hold that a config names: it decides the figures as weights do."""
    parts = getattr(model, "mask_head", None), getattr(model, "presence_rule", None)
    rules = [getattr(part, name, None) for part in parts for name in ("choice", "rule")]
    return [asdict(item) for item in rules if isinstance(item, (HeadChoice, PresenceWeights))]


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
    protocols: Sequence[str],
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
