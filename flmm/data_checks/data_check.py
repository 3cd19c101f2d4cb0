"""Is a data root ready, before hours are spent? ``tools/check_data.py`` prints the reports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from flmm.data.published import (
    DATASETS,
    NARRATIVE_USES,
    PNG,
    PNG_SPLITS,
    REFER_DATASETS,
    SPLIT_USES,
    NarrativeSplit,
    ReferDataset,
)
from flmm.data_checks.check_report import DataReport, PictureCheck
from flmm.data_checks.layout_checks import check_narratives, check_refer_dataset


def check_data_root(
    root: str | Path,
    datasets: Sequence[str] = (),
    full: bool = False,
    splits: Sequence[str] = tuple(SPLIT_USES),
) -> Iterator[DataReport]:
    """Check the data sets of a data root, one after the other.

    Args:
        root: F-LMM's ``data/coco``, or a folder that itself holds ``instances.json`` and
            ``refs(*).p`` (as ``tools/make_shapes.py`` writes it).
        datasets: names that must be there; empty: all, and absent ones are only said to be absent.
        full: open all pictures and decode all masks, not a sample.
        splits: that a folder with one data set must have; those of the published ones are known.

    Raises:
        FileNotFoundError: ``root`` is no folder.
        ValueError: a name is not known.
    """
    root, pictures = Path(root), PictureCheck(full)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder: name the folder that holds the data")
    unknown = sorted(set(datasets) - set(DATASETS))
    if unknown:
        raise ValueError(f"there is no data set {unknown[0]!r}: choose from {', '.join(DATASETS)}")
    if not datasets and (root / "instances.json").is_file():
        yield from _check_single(root, pictures, splits)
        return
    for name in datasets or DATASETS:
        for report in _check_published(root, name, pictures):
            if datasets and report.absent is not None:
                report.add_trouble(f"it is not in {root}", f"get it from {report.absent}")
                report.absent = None
            yield report


def _check_published(root: Path, name: str, pictures: PictureCheck) -> Iterator[DataReport]:
    if name != PNG:
        yield check_refer_dataset(root, REFER_DATASETS[name], pictures)
        return
    for split, narratives in PNG_SPLITS.items():
        report = check_narratives(root, f"{PNG} {split}", narratives, pictures)
        report.use = NARRATIVE_USES[split]
        yield report


def _check_single(
    root: Path, pictures: PictureCheck, splits: Sequence[str]
) -> Iterator[DataReport]:
    """A folder that holds the files of one data set, with or without narratives."""
    images = "images" if (root / "images").is_dir() else "."
    for path in sorted(root.glob("refs(*).p")):
        name = f"{root.resolve().name}/{path.name}"
        files = ReferDataset(name, "instances.json", path.name, {}, images, "where it was made")
        yield check_refer_dataset(root, files, pictures, splits)
    for path in sorted(root.glob("png_*.json")):
        split = re.sub(r"^png_|\.json$", "", path.name)
        narratives = NarrativeSplit(
            path.name, f"panoptic_{split}.json", (f"panoptic_{split}",), images
        )
        yield check_narratives(root, f"{root.resolve().name}/{path.name}", narratives, pictures)
