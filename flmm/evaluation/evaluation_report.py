"""What an evaluation says in the end: one table, as text, Markdown and JSON.

In: the results of the splits and where they come from. Out: rows with figures in percent, files.
Every row names data set, split, protocol and stage of the mask; expressions that were skipped, had
no true pixel or got no readable box are columns of it. Not its duty: measuring.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flmm.evaluation.evaluating import SplitResult
from flmm.evaluation.grounding_metrics import GroundingMetric
from flmm.evaluation.scores import name_columns
from flmm.files import replace_file
from flmm.tables import Rows, format_markdown, tabulate

Row = dict[str, Any]
NAMED_REASONS = 20
# Columns that the table leaves out where they are zero in every row.
RARE = ("empty_truths", "no_box")


def build_rows(
    results: Sequence[SplitResult], metric: type[GroundingMetric], refined: str
) -> list[Row]:
    """One row per split, protocol, group of expressions and stage of the mask.

    Args:
        refined: what the table calls the final masks ("refined", "box + SAM").
    """
    rows = []
    for result in results:
        named = {"dataset": result.dataset_name, "split": result.split}
        speed = result.computed / result.seconds if result.computed and result.seconds else None
        for protocol, scores in result.scores.items():
            if scores or result.skipped:
                report = metric.report([*scores, *result.skipped])
                counts = {
                    "images": result.images,
                    "skipped": len(report.skipped),
                    "empty_truths": report.empty_truths,
                    "no_box": len(result.problems[protocol]),
                    "expressions_per_second": speed,
                }
                for row in report.list_rows(refined):
                    rows.append({**named, "protocol": protocol, **row, **counts})
    return rows


def list_left_out(results: Sequence[SplitResult]) -> dict[str, list[Row]]:
    """``skipped``: every expression in no figure; ``problems``: masks empty for a reason."""
    left_out: dict[str, list[Row]] = {"skipped": [], "problems": []}
    for result in results:
        named = {"dataset": result.dataset_name, "split": result.split}
        left_out["skipped"] += [named | asdict(item) for item in result.skipped]
        for protocol, problems in result.problems.items():
            left_out["problems"] += [
                {**named, "protocol": protocol, "expression_id": key, "reason": reason}
                for key, reason in problems
            ]
    return left_out


def format_rows(rows: Sequence[Row], show_groups: bool, write: Callable[[Rows], str]) -> str:
    """The rows as a table of :mod:`flmm.tables`; without groups those of all expressions alone."""
    rows = [row for row in rows if show_groups or row["group"] == "all"]
    if not rows:
        return "(nothing was evaluated)"
    hidden = {name for name in RARE if not any(row[name] for row in rows)}
    hidden |= set() if show_groups else {"group"}
    return write(tabulate(rows, name_columns(name for name in rows[0] if name not in hidden)))


def write_report(path: Path, content: Row, show_groups: bool) -> None:
    """Write ``path`` (JSON) and the same as Markdown beside it.

    Args:
        content: ``title``, ``rows``, ``skipped``, ``problems`` and, under ``run``, where the
            figures come from.
    """
    table = format_rows(content["rows"], show_groups, format_markdown)
    parts = [f"# {content['title']}", "Percent.", table]
    parts += _format_reasons("Skipped expressions, in no figure above:", content["skipped"])
    parts += _format_reasons("Counted as empty masks:", content["problems"])
    run = content["run"]
    lines = [f"- {key}: {value}" for key, value in run.items() if key != "versions"]
    lines += [f"- {name} {version}" for name, version in run["versions"].items()]
    replace_file(path, f"{json.dumps(content, indent=2)}\n".encode())
    text = "\n\n".join([*parts, "\n".join(lines)])
    replace_file(path.with_suffix(".md"), f"{text}\n".encode())


def _format_reasons(words: str, items: Sequence[Row]) -> list[str]:
    lines = [
        f"- {item['dataset']} {item['split']}, {item['expression_id']}: {item['reason']}"
        for item in items[:NAMED_REASONS]
    ]
    if len(items) > NAMED_REASONS:
        lines.append(f"- and {len(items) - NAMED_REASONS} more, all in the JSON file")
    return [words, "\n".join(lines)] if items else []
