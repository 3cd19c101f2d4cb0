"""Tables: every figure in its row and column, what is left out is told."""

from flmm.evaluation import (
    ExpressionScore,
    build_report,
    build_rows,
    compute_png_summary,
    compute_summary,
    format_remarks,
)
from flmm.records import SkippedExpression

SCORES = [
    ExpressionScore(1, ("shape",), (1, 2), (0, 4), 1),
    ExpressionScore(2, ("place",), (3, 4), (1, 4), 3),
]


def test_rows_hold_the_figures_of_both_stages() -> None:
    rows = build_rows(build_report(SCORES, compute_summary))
    assert rows[0][:6] == ["expressions", "count", "mask", "cIoU", "mIoU", "P@0.5"]
    assert [row[:5] for row in rows[1:]] == [
        ["all", "2", "refined", "66.67", "62.50"],
        ["all", "2", "coarse", "12.50", "12.50"],
        ["place", "1", "refined", "75.00", "75.00"],
        ["place", "1", "coarse", "25.00", "25.00"],
        ["shape", "1", "refined", "50.00", "50.00"],
        ["shape", "1", "coarse", "0.00", "0.00"],
    ]


def test_without_a_refiner_there_is_one_row_per_group() -> None:
    scores = [score._replace(coarse=None) for score in SCORES]
    rows = build_rows(build_report(scores, compute_png_summary))
    assert rows[0] == ["expressions", "count", "mask", "average recall", "accuracy@0.5"]
    assert [row[0] for row in rows[1:]] == ["all", "place", "shape"]


def test_skipped_expressions_are_counted_and_the_first_named() -> None:
    skipped = [SkippedExpression(key, 7, f"reason {key}") for key in range(10, 18)]
    report = build_report([*SCORES, *skipped], compute_summary)
    lines = format_remarks(report).splitlines()
    assert lines[0] == "skipped expressions (in no figure): 8"
    assert lines[1] == "  10 (image 7): reason 10"
    assert lines[-1] == "  and 3 more" and len(lines) == 7


def test_empty_truths_are_told() -> None:
    empty = ExpressionScore(3, (), (0, 5), None, 0)
    lines = format_remarks(build_report([*SCORES, empty], compute_summary)).splitlines()
    assert lines == [
        "skipped expressions (in no figure): 0",
        "expressions whose true mask is empty (their IoU is 0): 1",
    ]
