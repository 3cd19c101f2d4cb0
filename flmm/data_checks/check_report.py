"""What a check of data says: what was found, what is odd, what is wrong and what to do about it.

Pictures and masks are read by the very transforms that training uses.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from flmm.data.grounding_dataset import BadRecordError
from flmm.data.published import IMAGE_HOMES
from flmm.data.transforms import LoadRGBImage

SAMPLE_SIZE = 200
_SHOWN = 3


class Trouble(NamedTuple):
    """Something that hinders a run: what is wrong, and what to do."""

    what: str
    way_out: str


@dataclass
class DataReport:
    """Findings on one data set.

    Attributes:
        absent: where to get it, if nothing of it is there.
        use: what cannot be done without it, where that is not all.
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


class PictureCheck:
    """Looks for pictures, and opens all of them (``full``) or a sample, the same every time."""

    def __init__(self, full: bool = False) -> None:
        self.full = full
        self._load = LoadRGBImage()
        # Several data sets share COCO's pictures: opened once.
        self._whole: set[tuple[str, int, int]] = set()

    def find(self, report: DataReport, folder: Path, names: Iterable[str]) -> set[str]:
        """Report which files of a folder are missing, and give those that are there."""
        names = set(names)
        if not folder.is_dir():
            report.add_trouble(f"there is no folder {folder}", _tell_home(folder))
            return set()
        present = set(os.listdir(folder))
        lacking = names - present
        missing = sorted(name for name in lacking if not (folder / name).is_file())
        count = len(names)
        report.found.append(f"{folder}: {count - len(missing):,} of {count:,} files are there")
        if missing:
            nested = folder / folder.name
            way_out = (
                f"move the content of {nested} up to {folder}"
                if (nested / missing[0]).is_file()
                else _tell_home(folder)
            )
            report.add_trouble(f"{len(missing):,} files miss: {shorten(missing)}", way_out)
        return names.difference(missing)

    def open(
        self,
        report: DataReport,
        indices: Sequence[int],
        build_record: Callable[[int], dict[str, Any]],
        decode: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        """Open pictures and decode their masks; report what is broken and which masks are empty.

        ``indices`` are of the records whose pictures are there; ``decode`` adds ``gt_masks``, and
        reads the picture itself where the record has no size.
        """
        chosen = indices
        if not self.full and len(indices) > SAMPLE_SIZE:
            chosen = sorted(random.Random(0).sample(indices, SAMPLE_SIZE))
        broken, empty, masks = [], 0, 0
        for index in tqdm(chosen, desc=f"{report.name}: pictures", disable=None, leave=False):
            record = build_record(index)
            try:
                key = (record["img_path"], record.get("height", 0), record.get("width", 0))
                if "height" in record and key not in self._whole:
                    self._load(record)
                    self._whole.add(key)
                found = decode(record)["gt_masks"].flatten(1).any(1)
            except BadRecordError as error:
                broken.append(str(error))
                continue
            masks += len(found)
            empty += int((~found).sum())
        kind = "all" if len(chosen) == len(indices) else "a sample; --full opens all"
        report.found.append(f"{len(chosen):,} pictures opened ({kind}), {masks:,} masks decoded")
        if empty:
            report.notes.append(
                f"{empty:,} of these masks are empty: RefCOCO's figures score them 0, gRefCOCO's "
                "and ReasonSeg's ask for nothing there, training leaves their expressions out"
            )
        if broken:
            report.add_trouble(
                f"{len(broken):,} of {len(chosen):,} pictures cannot be used: {shorten(broken)}",
                "get these files anew, or set bad_records='skip' to go on without them",
            )


def _tell_home(folder: Path) -> str:
    """What to do for a folder's missing files."""
    home = IMAGE_HOMES.get(folder.name)
    if home is None:
        return f"put them into {folder}"
    return f"unpack {home} so that its files lie in {folder}"
