"""What an evaluation says in the end: one table, as Markdown and JSON.

In: the results of the splits and where they come from. Out: rows with figures in percent, files.
Every row names data set, split, protocol and stage of the mask; expressions that were skipped, had
no true pixel or got no readable box are columns of it. Not its duty: measuring.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flmm.evaluation import Report, build_report
from flmm.evaluation.evaluating import SplitResult
from flmm.evaluation.scores import COARSE_PREFIX, Measure
from flmm.tables import format_markdown

Row = dict[str, Any]
NAMED_REASONS = 20
# Columns that the table leaves out where they are zero in every row.
RARE = ("empty_truths", "no_box")


def build_rows(
    results: Sequence[SplitResult], measure: Measure, group_order: Sequence[str], refined: str
) -> list[Row]:
    """One row per split, protocol, group of expressions and stage of the mask.

    Args:
        results: of the splits, in the order of the table.
        measure: what is measured, such as ``flmm.evaluation.compute_summary``.
        group_order: groups that come first.
        refined: what the table calls the final masks ("refined", "box + SAM").
    """
    rows = []
    for result in results:
        for protocol, scores in result.scores.items():
            if not (scores or result.skipped):
                continue
            report = build_report([*scores, *result.skipped], measure, group_order)
            rows += _list_rows(result, protocol, report, refined)
    return rows


def _list_rows(result: SplitResult, protocol: str, report: Report, refined: str) -> list[Row]:
    rows = []
    for group, figures in ({"all": report.metrics} | report.groups).items():
        names = [name for name in figures if not name.startswith(COARSE_PREFIX)]
        for mask, prefix in ((refined, ""), ("coarse", COARSE_PREFIX)):
            if prefix + names[0] in figures:
                row: Row = {
                    "dataset": result.dataset_name,
                    "split": result.split,
                    "protocol": protocol,
                    "group": group,
                    "mask": mask,
                }
                row |= {name: figures[prefix + name] for name in names}
                rows.append(row | _list_counts(result, protocol, report, group))
    return rows


def _list_counts(result: SplitResult, protocol: str, report: Report, group: str) -> Row:
    speed = result.computed / result.seconds if result.computed and result.seconds else None
    return {
        "expressions": report.counts[group],
        "images": result.images,
        "skipped": len(report.skipped),
        "empty_truths": report.empty_truths,
        "no_box": len(result.problems[protocol]),
        "expressions_per_second": speed,
    }


def format_table(
    rows: Sequence[Row], show_groups: bool, write: Callable[[list[list[str]]], str]
) -> str:
    """The rows as a table.

    Args:
        rows: of :func:`build_rows`.
        show_groups: without it only the rows of all expressions.
        write: ``format_markdown`` or ``format_text``.
    """
    rows = [row for row in rows if show_groups or row["group"] == "all"]
    if not rows:
        return "(nothing was evaluated)"
    hidden = {name for name in RARE if not any(row[name] for row in rows)}
    names = [name for name in rows[0] if name not in hidden and (show_groups or name != "group")]
    titles = [name.replace("precision@", "P@").replace("_", " ") for name in names]
    return write([titles, *([_format(row[name]) for name in names] for row in rows)])


def _format(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def write_report(path: Path, content: dict[str, Any], show_groups: bool) -> None:
    """Write ``path`` (JSON) and the same as Markdown beside it.

    Args:
        path: ends with ``.json``; folders are made.
        content: ``title``, ``rows``, ``skipped``, ``problems`` and, under ``run``, where the
            figures come from.
        show_groups: the Markdown table has rows of groups too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(_format_report(content, show_groups), encoding="utf-8")


def _format_report(content: dict[str, Any], show_groups: bool) -> str:
    table = format_table(content["rows"], show_groups, format_markdown)
    parts = [f"# {content['title']}", "Percent.", table]
    parts += _format_reasons("Skipped expressions, in no figure above:", content["skipped"])
    parts += _format_reasons("Counted as empty masks:", content["problems"])
    run = content["run"]
    lines = [f"- {key}: {value}" for key, value in run.items() if key != "versions"]
    lines += [f"- {name} {version}" for name, version in run["versions"].items()]
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _format_reasons(words: str, items: Sequence[Row]) -> list[str]:
    lines = [
        f"- {item['dataset']} {item['split']}, {item['expression_id']}: {item['reason']}"
        for item in items[:NAMED_REASONS]
    ]
    if len(items) > NAMED_REASONS:
        lines.append(f"- and {len(items) - NAMED_REASONS} more, all in the JSON file")
    return [words, "\n".join(lines)] if items else []


def list_skipped(results: Sequence[SplitResult]) -> list[Row]:
    """Every skipped expression with its reason."""
    return [
        {
            "dataset": result.dataset_name,
            "split": result.split,
            "expression_id": item.expression_id,
            "image_id": item.image_id,
            "reason": item.reason,
        }
        for result in results
        for item in result.skipped
    ]


def list_problems(results: Sequence[SplitResult]) -> list[Row]:
    """Every expression whose mask is empty for a reason, such as a reply without a box."""
    return [
        {
            "dataset": result.dataset_name,
            "split": result.split,
            "protocol": protocol,
            "expression_id": key,
            "reason": reason,
        }
        for result in results
        for protocol, problems in result.problems.items()
        for key, reason in problems
    ]


__all__ = ["build_rows", "format_table", "list_problems", "list_skipped", "write_report"]
