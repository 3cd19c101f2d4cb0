"""The rows of the reading as tables: a narrow one for the screen, a whole one for Markdown.

In: rows of :func:`flmm.benchmarks.reading.measure_reading`. Out: cells of text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class _Column:
    """A column of the table.

    Attributes:
        title: of it.
        write: the cell of a row that was run.
        is_detail: only the whole table has it.
    """

    title: str
    write: Callable[[Row], str]
    is_detail: bool = False


def list_columns(rows: Sequence[Row], has_details: bool = False) -> list[list[str]]:
    """Header and cells; of a row that was not run only what it is.

    Args:
        rows: of the reading.
        has_details: with spread, rest, speed, GPU, largest tensor and difference, which make the
            table wider than a screen.
    """
    columns = [column for column in _MEASURED if has_details or not column.is_detail]
    table = [[*_NAMES, *(column.title for column in columns)]]
    for row in rows:
        names = [str(row[name.replace(" ", "_")]) for name in _NAMES]
        cells = ["not run", *["-"] * (len(columns) - 1)]
        if row["why_not"] is None:
            cells = [column.write(row) for column in columns]
        table.append([*names, *cells])
    return table


def list_remarks(rows: Sequence[Row]) -> list[str]:
    """One line for each row that was not run, with the reason."""
    return [
        f"not run: {row['way']}, {row['image_tokens']} image tokens, {row['expressions']} "
        f"expressions: {row['why_not']}"
        for row in rows
        if row["why_not"] is not None
    ]


def _number(key: str, form: str = ".2f") -> Callable[[Row], str]:
    """Writes one value of a row, "-" where it has none."""
    return lambda row: "-" if row.get(key) is None else format(row[key], form)


def _write_median(row: Row) -> str:
    return f"{'~' if row['extrapolated'] else ''}{row['median_s']:.2f}"


def _write_spread(row: Row) -> str:
    return f"{row['low_s']:.2f}-{row['high_s']:.2f}"


def _write_largest(row: Row) -> str:
    return f"{'x'.join(map(str, row['largest_shape']))} ({row['largest_mb']:.0f} MB)"


_NAMES = ("image tokens", "expressions", "way")
_MEASURED = (
    _Column("median s", _write_median),
    _Column("spread s", _write_spread, is_detail=True),
    _Column("x ours", _number("time_over_ours")),
    _Column("x floor", _number("time_over_floor")),
    _Column("vision s", _number("vision_s")),
    _Column("layers s", _number("layers_s")),
    _Column("head s", _number("head_s")),
    _Column("rest s", _number("rest_s"), is_detail=True),
    _Column("images/s", _number("images_per_s"), is_detail=True),
    _Column("expressions/s", _number("expressions_per_s"), is_detail=True),
    _Column("GPU %", _number("gpu_percent", ".0f"), is_detail=True),
    _Column("extra MB", _number("extra_mb", ".0f")),
    _Column("MB x ours", _number("memory_over_ours")),
    _Column("largest tensor", _write_largest, is_detail=True),
    _Column("difference", _number("difference", ".0e"), is_detail=True),
)

__all__ = ["list_columns", "list_remarks"]
