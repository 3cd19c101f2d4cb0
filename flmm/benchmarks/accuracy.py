"""What the toy scores: read once against one by one, half precision against float32."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flmm.benchmarks.harness import BenchmarkSettings, Row, build_rows
from flmm.benchmarks.inputs import build_reader, build_toy, make_expressions, make_image
from flmm.data.protocols import REFER_PROTOCOLS
from flmm.evaluation import compute_summary
from flmm.evaluation.evaluating import EvaluationSplit, evaluate_split
from flmm.records import GroundingSample

PROTOCOLS = {"standard": REFER_PROTOCOLS["standard"]}
DTYPES = ("float32", "bfloat16", "float16")


def evaluate(settings: BenchmarkSettings, images: int = 10, expressions: int = 7) -> list[Row]:
    """The loop of tools/eval_refcoco.py in both ways; an error where they do not count alike."""
    with tempfile.TemporaryDirectory() as folder:
        model, dataset = build_toy(folder, 30 * images, settings.torch_device, min_objects=3)
        items = _keep_expressions(dataset, images, expressions)
        split = EvaluationSplit("shapes", "val", items, PROTOCOLS)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        scores = {}
        for turn in range(settings.repeats + 1):
            for one_by_one in seconds:
                journal = Path(folder) / f"{turn}_{one_by_one}"
                result = evaluate_split(model, split, journal, one_by_one=one_by_one)
                scores[one_by_one] = result.scores
                if turn:
                    seconds[one_by_one].append(result.seconds)
    if scores[True] != scores[False]:
        raise ValueError("the two ways of evaluating disagree: their speeds cannot be compared")
    what = f"evaluate {len(items)} images x {expressions} expressions, tiny model"
    return build_rows(what, {"one by one": seconds[True], "read once": seconds[False]})


def _keep_expressions(dataset: Any, images: int, count: int) -> list[dict[str, Any]]:
    """The first items with at least so many expressions, cut to them; loaded beforehand."""
    items: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        item = dataset[index]
        sample: GroundingSample = item["data_samples"]
        if len(items) < images and len(sample.expression_ids) >= count:
            kept = {name: getattr(sample, name)[:count] for name in ("expression_ids", "ref_ids")}
            cut = GroundingSample(metainfo={"image_id": sample.image_id, **kept})
            cut.continuations = sample.continuations[:count]
            cut.gt_masks = sample.gt_masks[:count]
            items.append({"inputs": item["inputs"], "data_samples": cut})
    return items


def precision(settings: BenchmarkSettings, images: int = 50) -> list[Row]:
    """How far a reader in half precision strays from float32; the rows' softmax is always float32.

    ``changed``: percent of expressions whose refined mask has other counts than in float32;
    ``map_difference`` (relative, mean over phrases and heads) and ``worst_head``.
    """
    return [*_measure_toy(settings.torch_device, images), *_measure_size(settings)]


def _measure_toy(device: torch.device, images: int) -> list[Row]:
    rows: list[Row] = []
    maps, refined = [], []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in DTYPES:
            model, dataset = build_toy(folder, 20 * images, device, dtype)
            split = EvaluationSplit("shapes", "val", dataset, PROTOCOLS)
            scores = evaluate_split(model, split, Path(folder) / dtype).scores["standard"]
            sample, vlm = dataset[0], model.vlm
            prefix = vlm.prefill(sample["inputs"])
            maps.append(vlm.attend(prefix, sample["data_samples"].continuations).maps)
            refined.append([score.refined for score in scores])
            changed = sum(one != other for one, other in zip(refined[-1], refined[0]))
            coarse = [score.coarse for score in scores if score.coarse is not None]
            row = {
                "what": "tiny model",
                "dtype": dtype,
                "expressions": len(scores),
                "cIoU": compute_summary(*zip(*refined[-1]))["cIoU"],
                "coarse_cIoU": compute_summary(*zip(*coarse))["cIoU"],
                "changed": 100 * changed / len(scores),
            }
            rows.append(row | compute_difference(maps[-1], maps[0]))
    return rows


def _measure_size(settings: BenchmarkSettings) -> list[Row]:
    rows: list[Row] = []
    exact = None
    for dtype in DTYPES:
        reader = build_reader(settings.model, settings.layers, dtype).to(settings.torch_device)
        maps = reader.attend(reader.prefill(make_image(reader, 300)), make_expressions(7)).maps
        exact = maps if exact is None else exact
        name = f"{settings.model}, {reader.num_layers} layers, random weights"
        rows.append({"what": name, "dtype": dtype, **compute_difference(maps, exact)})
        del reader
    return rows


def compute_difference(maps: Tensor, exact: Tensor) -> dict[str, float]:
    """Relative difference of maps ``[P, C, h, w]``: norms per phrase and channel."""
    errors = (maps - exact).flatten(2).norm(dim=2) / exact.flatten(2).norm(dim=2)
    return {"map_difference": float(errors.mean()), "worst_head": float(errors.mean(0).max())}
