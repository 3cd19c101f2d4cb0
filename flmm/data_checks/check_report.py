"""What a check of data says: what was found, what is odd, what is wrong and what to do about it.

Data in: findings, one by one. Data out: lines for people, and the last line that decides. Nothing
is read here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

_SHOWN = 3


class Trouble(NamedTuple):
    """Something that hinders a run: what is wrong, and what to do."""

    what: str
    way_out: str


@dataclass
class DataReport:
    """Findings on one data set.

    Attributes:
        name: of the data set.
        absent: where to get it, if nothing of it is there.
        use: what cannot be done without it, where that is not all.
        found: what is there, in lines.
        notes: what is odd and does not hinder a run.
        troubles: what hinders it, the first thing to do first.
    """

    name: str
    absent: str | None = None
    use: str = ""
    found: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    def add_trouble(self, what: str, way_out: str) -> None:
        """Note something that hinders a run."""
        self.troubles.append(Trouble(what, way_out))


def shorten(items: Iterable[object]) -> str:
    """The first three of a list, and how many more there are."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - _SHOWN:,} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def format_report(report: DataReport) -> str:
    """The findings on one data set as lines."""
    if report.absent is not None:
        return f"{report.name}: absent; get it from {report.absent}"
    lines = [f"{report.name}:", *(f"  {line}" for line in report.found)]
    lines += [f"  note: {note}" for note in report.notes]
    lines += [f"  WRONG: {item.what}\n         -> {item.way_out}" for item in report.troubles]
    return "\n".join(lines)


def decide(reports: list[DataReport], root: str) -> tuple[bool, str]:
    """Whether a run can start, and the last line: ready, or what to do first."""
    there = [report for report in reports if report.absent is None]
    absent = [report for report in reports if report.absent is not None]
    for report in there:
        for first in report.troubles:
            return False, f"not ready: {report.name}: {first.what} -> {first.way_out}"
    if not there:
        return False, (
            f"not ready: no data set in {root} -> name the folder that holds refcoco/ or "
            "annotations/; docs/data.md shows the layout and where to get the files"
        )
    names = [f"{item.name} ({item.use})" if item.use else item.name for item in absent]
    line = "ready: " + ", ".join(report.name for report in there)
    return True, line + (f" (absent: {', '.join(names)})" if names else "")
