"""What tools/eval_refcoco.py and tools/eval_png.py do with a config: a report in its work folder.

It is the same whatever the number of processes and interruptions.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.config import Config
from mmengine.registry import init_default_scope

from flmm.distributed import init_processes
from flmm.evaluation.evaluated_models import build_models
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
from flmm.registry import DATASETS
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
    models, run = build_models(config, options)
    folder = Path(config.work_dir) / name
    results = []
    for names, cfg in cfgs.items():
        journal = folder / "journal" / "_".join(names)
        origin = [
            config.model,
            [_list_rules(model) for model in models.values()],
            run,
            cfg,
            [hash_file(path) for path in list_files(cfg)],
        ]
        asked = protocols[names[0]]
        journal = _open_journal(journal, [*origin, sorted(asked)], options)
        results += _evaluate_split(models, names, cfg, asked, journal, options)
    rows = build_rows(results)
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
        print(run.get("weights", "no trained head was measured"))
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
    models: Mapping[str, Any],
    names: tuple[str, str],
    cfg: dict[str, Any],
    protocols: Sequence[str],
    journal: Path,
    options: EvaluationOptions,
) -> list[SplitResult]:
    """Evaluate one split, whose data set is in memory no longer than that."""
    changes = {"test_mode": True, "bad_records": options.bad_records}
    dataset = DATASETS.build({**copy.deepcopy(cfg), **changes})
    split = EvaluationSplit(*names, dataset, protocols, options.limit)
    given = options.save_predictions, options.num_workers or 0, options.batch_size or 1
    return evaluate_split(models, split, journal, *given, options.one_by_one)


def _write_predictions(folder: Path, results: Sequence[SplitResult]) -> None:
    """``<data set>_<split>_<protocol>.json``, lists of COCO-style records; a folder a way."""
    first = results[0].way
    for result in results:
        own = folder if result.way == first else folder.with_name(f"{folder.name}_{result.way}")
        for protocol, records in result.predictions.items():
            path = own / f"{result.dataset_name}_{result.split}_{protocol}.json"
            replace_file(path, f"{json.dumps(records)}\n".encode())
