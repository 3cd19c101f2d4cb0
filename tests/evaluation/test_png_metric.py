"""Average recall: exact, and equal to the published scripts' sum; groups, accuracy, JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flmm.evaluation import (
    PngMetric,
    RefSegMetric,
    compute_accuracy_at,
    compute_average_recall,
)

STEP = 1e-5


def sum_recall_curve(ious: np.ndarray) -> float:
    """Recall at 100,000 thresholds, summed from the left as PNG's and F-LMM's scripts do."""
    total = 0.0
    for threshold in np.arange(0, 1, STEP)[:-1]:
        total += STEP * (ious >= threshold).sum() / len(ious)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_average_recall_is_the_published_sum_to_its_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ious = np.concatenate([rng.random(40) ** (seed + 1), [0.0, 0.0, 1.0, 0.5]])
    exact = compute_average_recall(ious.tolist())
    assert exact == pytest.approx(sum_recall_curve(ious), abs=STEP)
    assert compute_average_recall([0.0]) == 0 and compute_average_recall([1.0]) == 1


def test_average_recall_is_the_area_under_the_steps() -> None:
    ious = np.random.default_rng(4).random(31).round(2)  # some of them equal
    edges = np.unique(np.concatenate([[0.0, 1.0], ious]))
    recalls = [(ious >= edge).mean() for edge in edges[1:]]  # constant up to each edge
    area = np.sum(np.diff(edges) * recalls)
    assert compute_average_recall(ious.tolist()) == pytest.approx(area, abs=1e-12)


def test_accuracy_counts_what_is_above_the_threshold() -> None:
    assert compute_accuracy_at([0.5, 0.5000001, 0.2, 1.0], 0.5) == 0.5
    assert compute_accuracy_at([], 0.5) == 0


def make_samples(seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(9):
        phrases = int(rng.integers(1, 5))
        gt_masks = rng.random((phrases, 7, 9)) < 0.5
        masks = gt_masks ^ (rng.random((phrases, 7, 9)) < rng.random((phrases, 1, 1)) * 0.6)
        groups = [
            (str(rng.choice(["things", "stuff"])), str(rng.choice(["singulars", "plurals"])))
            for _ in range(phrases)
        ]
        samples.append(
            {
                "pred_masks": torch.from_numpy(masks),
                "coarse_masks": torch.from_numpy(np.roll(masks, 1, 2)),
                "gt_masks": torch.from_numpy(gt_masks),
                "expression_ids": [f"{index}:{row}" for row in range(phrases)],
                "expression_groups": groups,
            }
        )
    return samples


def evaluate(samples: list[dict[str, Any]], **kwargs: Any) -> dict[str, float]:
    metric = PngMetric(**kwargs)
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def test_every_group_has_the_figures_of_its_phrases_alone(tmp_path: Path) -> None:
    samples = make_samples()
    metrics = evaluate(samples, out_file=str(tmp_path / "png.json"))
    content = json.loads((tmp_path / "png.json").read_text())
    assert list(content["kinds"]) == ["singulars", "plurals", "things", "stuff"]
    for group in ("singulars", "plurals", "things", "stuff", None):
        ious = {"pred_masks": [], "coarse_masks": []}
        for sample in samples:
            for row, names in enumerate(sample["expression_groups"]):
                if group is None or group in names:
                    for key, values in ious.items():
                        mask, gt_mask = sample[key][row].numpy(), sample["gt_masks"][row].numpy()
                        values.append((mask & gt_mask).sum() / (mask | gt_mask).sum())
        suffix = f"/{group}" if group else ""
        figures = content["kinds"][group] if group else content["metrics"]
        for key, prefix in (("pred_masks", ""), ("coarse_masks", "coarse/")):
            wanted = 100 * np.mean(ious[key])
            assert metrics[f"{prefix}average_recall{suffix}"] == pytest.approx(wanted, abs=1e-9)
            wanted = 100 * np.mean(np.array(ious[key]) > 0.5)
            assert figures[f"{prefix}accuracy@0.5"] == pytest.approx(wanted, abs=1e-9)
        assert content["expressions"][group or "all"] == len(ious["pred_masks"])


def test_average_recall_is_referring_segmentations_miou() -> None:
    samples = make_samples(2)
    metric = RefSegMetric()
    metric.process({}, samples)
    assert evaluate(samples)["average_recall"] == metric.evaluate(9)["mIoU"]


def test_order_and_repetition_change_nothing() -> None:
    samples = make_samples(3)
    assert evaluate(samples[::-1] + samples[:4]) == evaluate(samples)
