"""Are the pictures of a data set there, whole, of the annotated size, and do their masks decode?

Data in: records as a data set's pipeline takes them. Data out: findings in a report. Pictures and
masks are read by the very transforms that training uses.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flmm.data.bad_records import BadRecordError
from flmm.data.published import IMAGE_HOMES
from flmm.data.transforms import LoadRGBImage
from flmm.data_checks.check_report import DataReport, shorten

SAMPLE_SIZE = 200


class PictureCheck:
    """Looks for pictures, and opens a sample of them or all.

    Args:
        full: open all pictures and decode all masks; otherwise a sample, the same every time.
    """

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

        Args:
            report: takes the findings.
            indices: of the records whose pictures are there.
            build_record: gives a record for the transforms by its index.
            decode: the transform that adds ``gt_masks``.
        """
        chosen = indices
        if not self.full and len(indices) > SAMPLE_SIZE:
            chosen = sorted(random.Random(0).sample(indices, SAMPLE_SIZE))
        broken, empty, masks = [], 0, 0
        for index in tqdm(chosen, desc=f"{report.name}: pictures", disable=None, leave=False):
            record = build_record(index)
            try:
                self._load_once(record)
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
                f"{empty:,} of these masks are empty: an evaluation scores them 0, training leaves "
                "their expressions out"
            )
        if broken:
            report.add_trouble(
                f"{len(broken):,} of {len(chosen):,} pictures cannot be used: {shorten(broken)}",
                "get these files anew, or set bad_records='skip' to go on without them",
            )

    def _load_once(self, record: dict[str, Any]) -> None:
        key = (record["img_path"], record["height"], record["width"])
        if key not in self._whole:
            self._load(record)
            self._whole.add(key)


def _tell_home(folder: Path) -> str:
    """What to do for a folder's missing files."""
    home = IMAGE_HOMES.get(folder.name)
    if home is None:
        return f"put them into {folder}"
    return f"unpack {home} so that its files lie in {folder}"
