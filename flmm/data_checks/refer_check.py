"""Is a data set in RefCOCO's layout complete, as published, and whole?

Data in: a data root and the names of its files. Data out: a report. Refs are judged by the function
that the data set itself uses, so that what passes here loads there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flmm.data.published import REFER_HOME, SPLIT_USES, PublishedSplit, ReferDataset
from flmm.data.refer_files import load_instances, load_refs
from flmm.data.refer_records import JoinedRef, join_refs
from flmm.data.transforms import DecodeMasks
from flmm.data_checks.check_report import DataReport, shorten
from flmm.data_checks.picture_check import PictureCheck

Ref = dict[str, Any]


class ReferFiles(NamedTuple):
    """Files of one data set, all relative to the data root; ``splits`` as published, if it is."""

    name: str
    ann_file: str
    split_file: str
    image_folder: str
    splits: dict[str, PublishedSplit]
    home: str

    @classmethod
    def of_published(cls, item: ReferDataset) -> ReferFiles:
        """The files of a published data set."""
        home = f"{REFER_HOME} ({item.ann_file}, {item.split_file})"
        return cls(item.name, item.ann_file, item.split_file, item.image_folder, item.splits, home)

    def list_missing(self, root: Path) -> list[str]:
        """Which of the two files are not in a data root."""
        return [name for name in (self.split_file, self.ann_file) if not (root / name).is_file()]

    def is_absent(self, root: Path) -> bool:
        """Whether nothing of it is there; ``instances.json`` may be that of other refs beside."""
        others = list((root / self.split_file).parent.glob("refs(*).p"))
        missing = self.list_missing(root)
        return self.split_file in missing and bool(others or self.ann_file in missing)


def check_refer_dataset(
    root: Path, files: ReferFiles, pictures: PictureCheck, needed: Sequence[str] = ()
) -> DataReport:
    """Check files, counts, references, pictures and masks of one data set.

    Args:
        root: that its files' names start from.
        files: of the data set.
        pictures: opens them.
        needed: splits that must have refs.
    """
    report = DataReport(files.name)
    if files.is_absent(root):
        report.absent = files.home
        return report
    missing = files.list_missing(root)
    if missing:
        report.add_trouble(f"{root / missing[0]} is missing", f"get it from {files.home}")
        return report
    anew = f"get it anew from {files.home}"
    try:
        refs = load_refs(root / files.split_file)
        _compare_counts(report, files, refs, anew)
        _report_missing_splits(report, files, refs, needed)
        images, annotations = load_instances(
            root / files.ann_file, annotation_ids={ref["ann_id"] for ref in refs}
        )
    except ValueError as error:
        report.add_trouble(str(error), anew)
        return report
    joined = _join(report, files, refs, images, annotations)
    folder = root / files.image_folder
    there = pictures.find(report, folder, [ref.image["file_name"] for ref in joined])
    records = _list_records([ref for ref in joined if ref.image["file_name"] in there], folder)
    if records:
        pictures.open(report, range(len(records)), records.__getitem__, DecodeMasks())
    return report


def _compare_counts(report: DataReport, files: ReferFiles, refs: list[Ref], anew: str) -> None:
    """Refs, sentences and images of each split beside the published counts."""
    names = list(dict.fromkeys([*files.splits, *(ref["split"] for ref in refs)]))
    report.found.append(f"{'split':8} {'refs':>8} {'sentences':>10} {'images':>8}")
    for name in names:
        chosen = [ref for ref in refs if ref["split"] == name]
        sentences = sum(len(ref["sentences"]) for ref in chosen)
        images = len({ref["image_id"] for ref in chosen})
        published = files.splits.get(name, PublishedSplit(None, None))
        verdict = "" if published.refs is None else "  as published"
        counts = (published.refs, published.sentences)
        if published.refs is not None and counts != (len(chosen), sentences):
            verdict = f"  published: {published.refs:,} and {published.sentences:,}"
            report.add_trouble(
                f"{files.split_file} has {len(chosen):,} refs and {sentences:,} sentences in split "
                f"{name}, published are {published.refs:,} and {published.sentences:,}",
                anew,
            )
        report.found.append(f"{name!s:8} {len(chosen):8,} {sentences:10,} {images:8,}{verdict}")
    if not refs:
        report.add_trouble(f"{files.split_file} holds no ref", anew)


def _report_missing_splits(
    report: DataReport, files: ReferFiles, refs: list[Ref], needed: Sequence[str]
) -> None:
    """Splits without a ref, and what cannot be done without them."""
    there = {ref["split"] for ref in refs}
    for split in needed if refs else ():
        if split not in there:
            report.add_trouble(
                f"{files.split_file} has no ref of split {split}: {SPLIT_USES[split]}",
                f"add refs of it, or check only what you need: --splits {' '.join(sorted(there))}",
            )


def _join(
    report: DataReport,
    files: ReferFiles,
    refs: list[Ref],
    images: dict[int, Any],
    annotations: dict[int, Any],
) -> list[JoinedRef]:
    """The refs that a data set can use, split by split; reports why the others cannot."""
    usable, problems, repeated = [], [], 0
    for split in dict.fromkeys(ref["split"] for ref in refs):
        chosen = [ref for ref in refs if ref["split"] == split]
        joined = join_refs(chosen, images, annotations, Path(files.ann_file).name)
        usable += joined.refs
        problems += joined.problems
        repeated += joined.repeated
    blank = [problem.expression_ids[0] for problem in problems if problem.is_blank]
    if blank:
        report.notes.append(f"{len(blank):,} sentences are blank and left out: {shorten(blank)}")
    if repeated:
        report.notes.append(f"{repeated:,} records stand there twice, word for word; used once")
    _note_masks(report, usable)
    faults = [problem.reason for problem in problems if not problem.is_blank]
    if faults:
        report.add_trouble(
            f"{len(faults):,} refs or sentences of {files.split_file} cannot be used: "
            f"{shorten(faults)}",
            f"get {files.split_file} and {files.ann_file} from one source ({files.home}), or set "
            "bad_records='skip' to go on without them",
        )
    return usable


def _note_masks(report: DataReport, refs: list[JoinedRef]) -> None:
    """Boxes that reach outside of their picture; annotations that several refs share."""
    unique = {ref.annotation["id"]: ref for ref in refs}
    outside = [key for key, ref in unique.items() if _is_outside(ref)]
    if outside:
        report.notes.append(
            f"{len(outside):,} boxes reach more than a pixel outside of their picture (annotation "
            f"{shorten(outside)}): boxes are not read, masks are cut at the edge"
        )
    if len(unique) < len(refs):
        report.notes.append(
            f"{len(refs) - len(unique):,} refs share their annotation with another: kept apart"
        )


def _is_outside(ref: JoinedRef) -> bool:
    box = ref.annotation.get("bbox")
    if not (isinstance(box, list) and len(box) == 4):
        return False
    x, y, width, height = box
    return (
        min(x, y) < -1
        or x + width > ref.image["width"] + 1
        or (y + height > ref.image["height"] + 1)
    )


def _list_records(refs: list[JoinedRef], folder: Path) -> list[dict[str, Any]]:
    """One record per image, as the transforms take it."""
    records: dict[int, dict[str, Any]] = {}
    for ref in refs:
        image, ref_id = ref.image, ref.expressions[0].ref_id
        record = records.setdefault(
            image["id"],
            {
                "image_id": image["id"],
                "img_path": str(folder / image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "segmentations": {},
                "ref_ids": [],
            },
        )
        record["segmentations"][ref_id] = ref.annotation["segmentation"]
        record["ref_ids"].append(ref_id)
    return list(records.values())


__all__ = ["ReferFiles", "check_refer_dataset"]
