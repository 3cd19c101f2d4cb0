"""Cost of a whole evaluation: every picture read once, against once for every expression."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from flmm.benchmarks.timing import build_rows
from flmm.checkpoints.checkpoint import load_weights
from flmm.config import load_config
from flmm.data.protocols import REFER_PROTOCOLS
from flmm.evaluation.evaluating import EvaluationSplit, evaluate_split
from flmm.records import GroundingSample
from flmm.registry import DATASETS, MODELS
from flmm.toy.shape_files import write_dataset

Row = dict[str, Any]
EXPRESSIONS = 7


def measure_evaluation(
    config_path: str, device: torch.device, images: int, repeats: int = 3
) -> list[Row]:
    """The loop of tools/eval_refcoco.py on a split of 7 expressions per image, both ways.

    Args:
        config_path: of the tiny model.
        device: of the model.
        images: of each timed run.
        repeats: runs of each way, in turns.

    Returns:
        two rows; ``ratio`` is the time against that of one by one.

    Raises:
        ValueError: the two ways do not give the same counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "scenes", num_images=30 * images, seed=7, min_objects=3)
        config = load_config(config_path, {"data_root": f"{folder}/scenes"})
        model = MODELS.build(config.model)
        load_weights(model, config.weights)
        model.to(device).eval()
        dataset = DATASETS.build(
            {**config.test_dataloader.dataset, "split": "val", "text_mode": "all"}
        )
        items = _keep_expressions(dataset, images)
        protocols = {"standard": REFER_PROTOCOLS["standard"]}
        split = EvaluationSplit("shapes", "val", items, protocols)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        scores = {}
        for turn in range(repeats + 1):
            for one_by_one in seconds:
                journal = Path(folder) / f"{turn}_{one_by_one}"
                result = evaluate_split(model, split, journal, one_by_one=one_by_one)
                scores[one_by_one] = result.scores
                if turn:
                    seconds[one_by_one].append(result.seconds)
    if scores[True] != scores[False]:
        raise ValueError("the two ways of evaluating disagree: their speeds cannot be compared")
    what = f"evaluate {len(items)} images x {EXPRESSIONS} expressions, tiny model"
    return build_rows(what, {"one by one": seconds[True], "read once": seconds[False]})


def _keep_expressions(dataset: Any, images: int) -> list[dict[str, Any]]:
    """The first items with at least so many expressions, cut to them; loaded beforehand."""
    items = []
    for index in range(len(dataset)):
        item = dataset[index]
        sample: GroundingSample = item["data_samples"]
        if len(sample.expression_ids) >= EXPRESSIONS:
            items.append({"inputs": item["inputs"], "data_samples": _cut(sample)})
        if len(items) == images:
            break
    return items


def _cut(sample: GroundingSample) -> GroundingSample:
    """The sample with its first expressions only."""
    cut = GroundingSample(
        metainfo={
            "image_id": sample.image_id,
            "expression_ids": sample.expression_ids[:EXPRESSIONS],
            "ref_ids": sample.ref_ids[:EXPRESSIONS],
        }
    )
    cut.continuations = sample.continuations[:EXPRESSIONS]
    cut.gt_masks = sample.gt_masks[:EXPRESSIONS]
    return cut


__all__ = ["measure_evaluation"]
