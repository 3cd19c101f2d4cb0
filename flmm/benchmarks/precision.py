"""How far half precision strays from float32: maps, masks and cIoU.

The reader runs in bfloat16 or float16; the rows' softmax is float32 in every case. On the tiny
model the masks mean something; on random weights of published layouts only the maps are compared.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from flmm.benchmarks.reading_ways import make_expressions, make_image
from flmm.checkpoints.checkpoint import load_weights
from flmm.config import load_config
from flmm.data.protocols import REFER_PROTOCOLS
from flmm.evaluation import compute_summary
from flmm.evaluation.evaluating import EvaluationSplit, SplitResult, evaluate_split
from flmm.readers.layouts import build_layout_reader
from flmm.registry import DATASETS, MODELS
from flmm.toy.shape_files import write_dataset

Row = dict[str, Any]
HALVES = ("bfloat16", "float16")


def measure_tiny_precision(config_path: str, device: torch.device, images: int) -> list[Row]:
    """cIoU and maps of the tiny model, by dtype of the reader.

    Args:
        config_path: of the tiny model.
        device: of the model.
        images: unseen scenes (seed 7), all of them asked under protocol "standard".

    Returns:
        rows with ``cIoU``, ``coarse_cIoU`` (percent), ``changed`` (percent of expressions whose
        refined mask has other counts than in float32) and ``map_difference`` (relative, mean).
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        # A twentieth of the scenes belongs to the split that is evaluated.
        write_dataset(Path(folder) / "scenes", num_images=20 * images, seed=7)
        exact = None
        for dtype in ("float32", *HALVES):
            options = {
                "data_root": f"{folder}/scenes",
                "model.model.dtype": dtype,
                "test_dataloader.dataset.split": "val",
            }
            config = load_config(config_path, options)
            model = MODELS.build(config.model)
            load_weights(model, config.weights)
            model.to(device).eval()
            dataset = DATASETS.build({**config.test_dataloader.dataset, "text_mode": "all"})
            protocols = {"standard": REFER_PROTOCOLS["standard"]}
            split = EvaluationSplit("shapes", "val", dataset, protocols)
            result = evaluate_split(model, split, Path(folder) / dtype)
            sample = dataset[0]
            maps = model.vlm.attend(
                model.vlm.prefill(sample["inputs"]), sample["data_samples"].continuations
            ).maps
            exact = exact or (result, maps)
            rows.append(_build_row(dtype, result, maps, exact))
    return rows


def _build_row(
    dtype: str, result: SplitResult, maps: torch.Tensor, exact: tuple[SplitResult, torch.Tensor]
) -> Row:
    scores, exact_scores = result.scores["standard"], exact[0].scores["standard"]
    changed = sum(one.refined != other.refined for one, other in zip(scores, exact_scores))
    coarse = [score.coarse for score in scores if score.coarse is not None]
    return {
        "what": "tiny model",
        "dtype": dtype,
        "expressions": len(scores),
        "cIoU": compute_summary(*zip(*(score.refined for score in scores)))["cIoU"],
        "coarse_cIoU": compute_summary(*zip(*coarse))["cIoU"],
        "changed": 100 * changed / len(scores),
        "map_difference": compute_difference(maps, exact[1]),
    }


def measure_layout_precision(layout: str, layers: int | None, device: torch.device) -> list[Row]:
    """Relative difference of the maps from float32's, on random weights of a layout.

    Returns:
        rows with ``map_difference`` (mean over phrases and heads) and ``worst_head``.
    """
    rows: list[Row] = []
    exact = None
    for dtype in ("float32", *HALVES):
        reader = build_layout_reader(layout, layers, dtype)
        reader.to(device)
        factor = reader.image_processor.patch_size * reader.image_processor.merge_size
        prefix = reader.prefill(make_image(300, factor))
        maps = reader.attend(prefix, make_expressions(7)).maps
        exact = maps if exact is None else exact
        errors = ((maps - exact).flatten(2).norm(dim=2) / exact.flatten(2).norm(dim=2)).mean(0)
        name = f"{layout}, {reader.num_layers} layers, random weights"
        row = {"what": name, "dtype": dtype, "map_difference": compute_difference(maps, exact)}
        rows.append({**row, "worst_head": float(errors.max())})
        del reader, prefix
    return rows


def compute_difference(maps: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative difference of maps ``[P, C, h, w]``: norms per phrase and channel, mean."""
    errors = (maps - exact).flatten(2).norm(dim=2) / exact.flatten(2).norm(dim=2)
    return float(errors.mean())


__all__ = ["compute_difference", "measure_layout_precision", "measure_tiny_precision"]
