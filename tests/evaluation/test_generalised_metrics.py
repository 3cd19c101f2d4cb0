"""gRefCOCO's and ReasonSeg's figures: against slow numpy, on records with known answers."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch

from flmm.evaluation import GRefSegMetric, ReasonSegMetric, score_sample
from flmm.evaluation.grounding_metrics import GroundingMetric

METRICS = (GRefSegMetric, ReasonSegMetric)


def make_masks(rng: np.random.Generator, size: tuple[int, int], is_empty: bool) -> np.ndarray:
    return np.zeros(size, bool) if is_empty else rng.random(size) < rng.uniform(0.1, 0.95)


def make_samples(seed: int, count: int = 48) -> list[dict[str, Any]]:
    """Every combination of empty and non-empty truth and prediction, good ones and bad ones."""
    rng = np.random.default_rng(seed)
    samples = []
    for index, (no_truth, no_prediction, is_good) in zip(
        range(count), itertools.cycle(itertools.product((False, True), repeat=3))
    ):
        size = (int(rng.integers(4, 20)), int(rng.integers(4, 20)))
        truth, mask = make_masks(rng, size, no_truth), make_masks(rng, size, no_prediction)
        if is_good and not no_prediction and not no_truth:
            mask = truth ^ (rng.random(size) < rng.uniform(0, 0.2))
        sample = {"expression_ids": [index], "expression_groups": [(("one", "none")[no_truth],)]}
        sample |= {"gt_masks": torch.tensor(truth[None]), "pred_masks": torch.tensor(mask[None])}
        if index % 3 == 0:
            sample["ignored"] = torch.tensor(rng.random(size) < 0.2)
        samples.append(sample)
    return samples


def evaluate(metric_type: type[GroundingMetric], samples: list[dict[str, Any]]) -> dict[str, float]:
    metric = metric_type()
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def evaluate_slowly(samples: list[dict[str, Any]]) -> dict[str, float]:
    """The definitions as they are written, pixel by pixel."""
    ious, of_targets, n_hits, t_hits = [], [], [], []
    total_both, total_either = 0, 0
    for sample in samples:
        truth, mask = sample["gt_masks"][0].numpy(), sample["pred_masks"][0].numpy()
        ignored = sample.get("ignored", torch.zeros(truth.shape, dtype=torch.bool)).numpy()
        pixels = [
            (bool(t), bool(m)) for t, m, i in zip(truth.flat, mask.flat, ignored.flat) if not i
        ]
        is_none, says_none = not any(t for t, _ in pixels), not any(m for _, m in pixels)
        if is_none:
            iou = 1.0 if says_none else 0.0
            n_hits.append(says_none)
            total_either += sum(m for _, m in pixels)
        else:
            both, either = sum(t and m for t, m in pixels), sum(t or m for t, m in pixels)
            iou = both / either
            total_both, total_either = total_both + both, total_either + either
            t_hits.append(not says_none)
            of_targets.append(iou)
        ious.append(iou)
    figures = {"gIoU": np.mean(ious), "cIoU": total_both / total_either}
    figures |= {"N-acc": np.mean(n_hits), "T-acc": np.mean(t_hits)}
    figures |= {f"precision@{k}": np.mean(np.array(of_targets) >= k) for k in (0.7, 0.8, 0.9)}
    return {name: 100 * float(value) for name, value in figures.items()}


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_slow_numpy(seed: int) -> None:
    samples = make_samples(seed)
    expected = evaluate_slowly(samples)
    generalised = evaluate(GRefSegMetric, samples)
    assert generalised == pytest.approx(expected, abs=1e-9)
    reasoning = evaluate(ReasonSegMetric, samples)
    assert reasoning == pytest.approx({k: expected[k] for k in ("gIoU", "cIoU")}, abs=1e-9)


def make_record(name: int, truth: list[int], mask: list[int], **more: Any) -> dict[str, Any]:
    """One expression about a picture of one row."""
    masks = {"gt_masks": truth, "pred_masks": mask}
    tensors = {key: torch.tensor(row, dtype=torch.bool)[None, None] for key, row in masks.items()}
    return {"expression_ids": [name], **tensors, **more}


MISSED = make_record(1, [1, 1, 1, 0], [0, 0, 0, 0])
SILENT = make_record(2, [0, 0, 0, 0], [0, 0, 0, 0])
INVENTED = make_record(3, [0, 0, 0, 0], [1, 1, 0, 0])
FOUND = make_record(4, [1, 1, 1, 1], [1, 1, 1, 0])  # IoU 3 / 4


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        # Nothing true and nothing said: IoU 1, and nothing joins the sums.
        ([SILENT], {"gIoU": 100, "N-acc": 100}),
        ([INVENTED], {"gIoU": 0, "N-acc": 0}),
        ([MISSED], {"gIoU": 0, "cIoU": 0, "T-acc": 0}),
        # What is said of nothing joins the union: 3 / (4 + 2).
        (
            [FOUND, INVENTED, SILENT],
            {"gIoU": 100 * (0.75 + 0 + 1) / 3, "cIoU": 50, "N-acc": 50, "T-acc": 100}
            | {"precision@0.7": 100, "precision@0.8": 0, "precision@0.9": 0},
        ),
        # A target that is missed has its pixels in the union: 3 / (4 + 3).
        (
            [FOUND, MISSED],
            {"gIoU": 37.5, "cIoU": 300 / 7, "T-acc": 50}
            | {"precision@0.7": 50, "precision@0.8": 0, "precision@0.9": 0},
        ),
    ],
)
def test_records_with_known_answers(
    records: list[dict[str, Any]], expected: dict[str, float]
) -> None:
    figures = evaluate(GRefSegMetric, records)
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    # A figure of no expression is no figure.
    assert ("N-acc" in figures) == ("N-acc" in expected)
    assert ("T-acc" in figures) == ("cIoU" in figures) == ("cIoU" in expected)
    reasoning = {name: value for name, value in expected.items() if name in ("gIoU", "cIoU")}
    assert evaluate(ReasonSegMetric, records) == pytest.approx(reasoning)


def test_ignored_pixels_are_in_no_figure() -> None:
    ignored = torch.tensor([[0, 1, 0, 1]], dtype=torch.bool)
    one = make_record(1, [1, 1, 1, 0], [1, 0, 0, 1], ignored=ignored)
    assert score_sample(one)[0].refined == (1, 2) and score_sample(one)[0].gt_pixels == 2
    # Nothing is left of the prediction, nor of the truth.
    outside = make_record(2, [0, 1, 0, 0], [0, 0, 0, 1], ignored=ignored)
    assert evaluate(ReasonSegMetric, [outside]) == {"gIoU": 100.0}


@pytest.mark.parametrize("metric", METRICS)
def test_order_repetition_and_a_file_between_change_no_digit(metric: type[GroundingMetric]) -> None:
    samples = make_samples(7)
    expected = evaluate(metric, samples)
    assert evaluate(metric, samples[::-1] + samples[:5]) == expected
    scores = [score for sample in samples for score in score_sample(sample)]
    read = [type(score).from_json(json.loads(json.dumps(score))) for score in scores]
    report = metric.report(read)
    assert report.metrics == expected
    if metric is GRefSegMetric:
        assert list(report.groups) == ["one", "none"]
        assert report.groups["none"]["N-acc"] == report.metrics["N-acc"]
        assert "T-acc" not in report.groups["none"]
