"""The table of an evaluation: its rows, how it is written, and what the figures leave out.

Rows of several protocols stand in one table: a figure that a protocol does not have is a dash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flmm.evaluation.evaluating import SplitResult
from flmm.evaluation.protocols import PROTOCOLS
from flmm.evaluation.scores import name_columns
from flmm.files import replace_file
from flmm.tables import Rows, format_markdown, tabulate
from flmm.ways import TRAINED

Row = dict[str, Any]
# What a row is of, and what it has beside its figures.
NAMES = ("dataset", "split", "protocol", "way", "group", "mask")
COUNTS = ("expressions", "images", "skipped", "empty_truths", "no_box", "expressions_per_second")
NAMED_REASONS = 20
PUBLISHED_WORDS = "Published by others under the same protocols:"
# Columns that the table leaves out where they are zero in every row.
_RARE = ("empty_truths", "no_box")


def build_rows(results: Sequence[SplitResult]) -> list[Row]:
    """One row per split, protocol, way, group of expressions and stage of the mask, in percent."""
    rows = []
    for result in results:
        named = {"dataset": result.dataset_name, "split": result.split}
        speed = result.computed / result.seconds if result.computed and result.seconds else None
        for protocol, scores in result.scores.items():
            if scores or result.skipped:
                report = PROTOCOLS[protocol].metric.report([*scores, *result.skipped])
                counts = {
                    "images": result.images,
                    "skipped": len(report.skipped),
                    "empty_truths": report.empty_truths,
                    "no_box": len(result.problems[protocol]),
                    "expressions_per_second": speed,
                }
                own = {**named, "protocol": protocol, "way": result.way}
                rows += [{**own, **row, **counts} for row in report.list_rows()]
    return rows


def list_left_out(results: Sequence[SplitResult]) -> dict[str, list[Row]]:
    """``skipped``: every expression in no figure; ``problems``: those of which no box was read."""
    left_out: dict[str, list[Row]] = {"skipped": [], "problems": []}
    for result in results:
        named = {"dataset": result.dataset_name, "split": result.split}
        if result.way == results[0].way:
            left_out["skipped"] += [named | asdict(item) for item in result.skipped]
        for protocol, problems in result.problems.items():
            left_out["problems"] += [
                {**named, "protocol": protocol, "way": result.way, "expression_id": key}
                | {"reason": reason}
                for key, reason in problems
            ]
    return left_out


def list_figures(rows: Sequence[Row]) -> list[str]:
    """Names of the figures that any of the rows has."""
    return [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if name not in (*NAMES, *COUNTS)
    ]


def format_rows(
    rows: Sequence[Row], write: Callable[[Rows], str], hidden: Sequence[str] = ()
) -> str:
    """The rows as a table of :mod:`flmm.tables`, without the columns ``hidden``.

    Of groups of expressions those are shown that the protocol's metric is known by.
    """
    rows = [
        row
        for row in rows
        if row["group"] in ("all", *PROTOCOLS[row["protocol"]].metric.group_order)
    ]
    if not rows:
        return "(nothing was evaluated)"
    unused = {name for name in _RARE if not any(row.get(name) for row in rows)} | set(hidden)
    if all(row["group"] == "all" for row in rows):
        unused.add("group")
    if all(row["way"] == TRAINED for row in rows):
        unused.add("way")
    names = [name for name in (*NAMES, *list_figures(rows), *COUNTS) if name not in unused]
    return write(tabulate(rows, name_columns(names)))


def write_report(path: Path, content: Row) -> None:
    """Write ``path`` (JSON) and the same as Markdown beside it.

    Args:
        content: ``title``, ``rows``, ``published``, ``skipped``, ``problems`` and ``run`` (where
            the figures come from).
    """
    table = format_rows(content["rows"], format_markdown)
    parts = [f"# {content['title']}", "Percent.", table]
    if content["published"]:
        parts += [PUBLISHED_WORDS, format_markdown(tabulate(content["published"]))]
    parts += _format_reasons("Skipped expressions, in no figure above:", content["skipped"])
    parts += _format_reasons("Without a readable box:", content["problems"])
    run = content["run"]
    lines = [f"- {key}: {value}" for key, value in run.items() if key != "versions"]
    lines += [f"- {name} {version}" for name, version in run["versions"].items()]
    replace_file(path, f"{json.dumps(content, indent=2)}\n".encode())
    text = "\n\n".join([*parts, "\n".join(lines)])
    replace_file(path.with_suffix(".md"), f"{text}\n".encode())


def _format_reasons(words: str, items: Sequence[Row]) -> list[str]:
    lines = [
        f"- {item['dataset']} {item['split']}, {item['expression_id']}"
        f"{' by ' + item['way'] if 'way' in item else ''}: {item['reason']}"
        for item in items[:NAMED_REASONS]
    ]
    if len(items) > NAMED_REASONS:
        lines.append(f"- and {len(items) - NAMED_REASONS} more, all in the JSON file")
    return [words, "\n".join(lines)] if items else []
