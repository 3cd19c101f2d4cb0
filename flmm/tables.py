"""Tables as people read them, of any values: aligned text, and Markdown.

One way of writing for every report: floats with two digits, what is not known as a dash, columns of
numbers to the right. Colours and tables that fold are rich's.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len

Rows = Sequence[Sequence[Any]]
_NUMBER = re.compile(r"[~<>]?[+-]?\d[\d,.]*(e[+-]?\d+)?%?")


def tabulate(
    records: Sequence[Mapping[str, Any]], titles: Mapping[str, str] | None = None
) -> list[list[Any]]:
    """Records as a header and one row each; no rows at all for no records.

    Args:
        titles: key -> title; None: the first record's keys. ``{}`` is no column.
    """
    if not records:
        return []
    titles = {key: key for key in records[0]} if titles is None else titles
    return [list(titles.values()), *([item.get(key) for key in titles] for item in records)]


def format_text(rows: Rows) -> str:
    """Aligned columns under a ruled header, the first row; wide characters count twice."""
    if not rows:
        return ""
    cells, are_numbers = _format_cells(rows)
    widths = [max(map(cell_len, column)) for column in zip(*cells)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(map(_align, row, widths, are_numbers)).rstrip() for row in cells)


def format_markdown(rows: Rows) -> str:
    """A Markdown table, whose header is the first row; ``|`` in a cell is escaped."""
    if not rows:
        return ""
    cells, are_numbers = _format_cells(rows)
    cells = [[cell.replace("|", r"\|") for cell in row] for row in cells]
    cells.insert(1, ["---:" if is_number else "---" for is_number in are_numbers])
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def format_cell(value: Any) -> str:
    """One value: floats with two digits, ``None`` and NaN as "-", text on one line."""
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return "-" if math.isnan(value) else f"{value:.2f}"
    return "-" if value is None else " ".join(str(value).split())


def _format_cells(rows: Rows) -> tuple[list[list[str]], list[bool]]:
    """The cells as text, and of each column whether it is set to the right, as numbers are."""
    cells = [[format_cell(value) for value in row] for row in rows]
    columns = list(zip(*cells, strict=True))
    rights = [any(map(_NUMBER.fullmatch, column[1:])) for column in columns]
    return cells, rights


def _align(text: str, width: int, to_the_right: bool) -> str:
    blank = " " * (width - cell_len(text))
    return blank + text if to_the_right else text + blank
