"""Scores on their way through files, and what a report counts."""

import json

import pytest
import torch

from flmm.evaluation import (
    ExpressionScore,
    PngMetric,
    RefSegMetric,
    build_report,
    score_sample,
)
from flmm.evaluation.scores import name_columns
from flmm.records import SkippedExpression


def make_score(name: int | str, both: int, either: int, *groups: str) -> ExpressionScore:
    return ExpressionScore(name, groups, (both, either), None, both)


@pytest.mark.parametrize(
    "score",
    [
        ExpressionScore(7, ("shape",), (3, 9), (2, 8), 5),
        ExpressionScore("12:3", (), (2**40, 2**41), None, 0),
    ],
)
def test_a_score_survives_json(score: ExpressionScore) -> None:
    assert ExpressionScore.from_json(json.loads(json.dumps(score))) == score


def test_masks_are_counted_per_expression() -> None:
    gt_masks = torch.zeros(2, 3, 3, dtype=torch.bool)
    gt_masks[0, 0] = True
    masks, coarse = torch.zeros_like(gt_masks), torch.ones_like(gt_masks)
    masks[:, 0, 1:] = True
    sample = {"expression_ids": ["a", "b"], "gt_masks": gt_masks, "pred_masks": masks}
    more = {"coarse_masks": coarse, "expression_groups": [("things",), ()]}
    assert score_sample(sample | more) == [
        ExpressionScore("a", ("things",), (2, 3), (3, 9), 3),
        ExpressionScore("b", (), (0, 2), (0, 9), 0),
    ]
    with pytest.raises(ValueError, match=r"1 expression_ids for 2 true masks, first id 'a'"):
        score_sample(sample | {"expression_ids": ["a"]})


def test_kinds_and_groups_are_both_groups() -> None:
    mask = torch.ones(2, 2, 2, dtype=torch.bool)
    sample = {"expression_ids": [1, 2], "gt_masks": mask, "pred_masks": mask}
    kinds = {"expression_kinds": ["place", "shape"]}
    groups = {"expression_groups": [("things", "plurals"), ("stuff",)]}
    found = [[score.groups for score in score_sample(sample | more)] for more in ({}, kinds)]
    assert found == [[(), ()], [("place",), ("shape",)]]
    assert [score.groups for score in score_sample(sample | groups | kinds)] == [
        ("place", "things", "plurals"),
        ("shape", "stuff"),
    ]
    with pytest.raises(ValueError, match="2 expression_ids for 1 expression_kinds, first"):
        score_sample(sample | {"expression_kinds": ["place"]})


def test_a_skipped_sample_needs_no_masks() -> None:
    reason = "image 3.jpg cannot be read"
    sample = {"expression_ids": [4, 5], "image_id": 3, "skipped": reason}
    assert score_sample(sample) == [
        SkippedExpression(4, 3, reason),
        SkippedExpression(5, 3, reason),
    ]


def test_a_report_counts_every_id_once() -> None:
    results = [
        make_score(1, 1, 4, "b"),
        make_score(2, 0, 3, "a", "b"),
        make_score(1, 1, 4, "b"),
        SkippedExpression(3, 9, "broken"),
        SkippedExpression(3, 9, "broken"),
        SkippedExpression(1, 8, "came too late"),
    ]
    report = build_report(results, RefSegMetric.measure, group_order=["c", "b"])
    assert report.counts == {"all": 2, "b": 2, "a": 1}
    assert list(report.groups) == ["b", "a"]
    assert report.skipped == (SkippedExpression(3, 9, "broken"),)
    assert report.empty_truths == 1
    assert report.metrics["cIoU"] == pytest.approx(100 / 7)
    assert report.metrics["mIoU"] == pytest.approx(12.5)
    assert not any(name.startswith("coarse/") for name in report.metrics)
    assert build_report(results[::-1], RefSegMetric.measure, ["c", "b"]) == report


def test_nothing_but_skipped_expressions_is_a_report_too() -> None:
    report = build_report([SkippedExpression("0:0", 1, "gone")], RefSegMetric.measure)
    assert report.counts == {"all": 0} and len(report.skipped) == 1
    assert set(report.metrics.values()) == {0.0}
    with pytest.raises(ValueError, match="saw no prediction"):
        build_report([], RefSegMetric.measure)


SCORES = [
    ExpressionScore(1, ("shape",), (1, 2), (0, 4), 1),
    ExpressionScore(2, ("place",), (3, 4), (1, 4), 3),
]


def test_rows_hold_the_figures_of_both_stages() -> None:
    rows = build_report(SCORES, RefSegMetric.measure).list_rows()
    assert [(row["group"], row["mask"], row["expressions"]) for row in rows] == [
        (group, mask, count)
        for group, count in (("all", 2), ("place", 1), ("shape", 1))
        for mask in ("refined", "coarse")
    ]
    assert [round(row["cIoU"], 2) for row in rows] == [66.67, 12.5, 75, 25, 50, 0]
    titles = list(name_columns(rows[0]).values())
    assert titles[:5] == ["group", "mask", "cIoU", "mIoU", "P@0.5"]


def test_without_a_refiner_there_is_one_row_per_group() -> None:
    scores = [score._replace(coarse=None) for score in SCORES]
    rows = build_report(scores, PngMetric.measure).list_rows()
    assert list(rows[0]) == ["group", "mask", "average_recall", "accuracy@0.5", "expressions"]
    assert [row["group"] for row in rows] == ["all", "place", "shape"]


def test_skipped_expressions_are_counted_and_the_first_named() -> None:
    skipped = [SkippedExpression(key, 7, f"reason {key}") for key in range(10, 18)]
    lines = build_report([*SCORES, *skipped], RefSegMetric.measure).format_remarks().splitlines()
    assert lines[0] == "skipped expressions (in no figure): 8"
    assert lines[1] == "  10 (image 7): reason 10"
    assert lines[-1] == "  and 3 more" and len(lines) == 7


def test_empty_truths_are_told() -> None:
    empty = ExpressionScore(3, (), (0, 5), None, 0)
    assert build_report([*SCORES, empty], RefSegMetric.measure).format_remarks().splitlines() == [
        "skipped expressions (in no figure): 0",
        "expressions whose true mask is empty: 1",
    ]
