"""Is a data root ready, before hours are spent? ``tools/check_data.py`` prints the reports.

Refs and narratives are judged by what the data sets themselves use: what passes here loads there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flmm.data.masks import DecodePanopticMasks
from flmm.data.png import PanopticNarrativeDataset
from flmm.data.published import (
    DATASETS,
    NARRATIVE_USES,
    PANOPTIC_HOME,
    PNG,
    PNG_HOME,
    PNG_SPLITS,
    REASON,
    REASON_FOLDER,
    REASON_HOME,
    REASON_SPLITS,
    REFER_DATASETS,
    SPLIT_USES,
    NarrativeSplit,
    ReferDataset,
)
from flmm.data.reason_seg import PaintShapes, ReasonSegDataset
from flmm.data.refer_files import list_targets, load_instances, load_refs
from flmm.data.refer_records import Problem, check_release, join_refs
from flmm.data.transforms import DecodeMasks, LoadRGBImage
from flmm.data_checks.check_report import DataReport, PictureCheck, shorten

Record = dict[str, Any]


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
    if name == REASON:
        for split in REASON_SPLITS:
            yield check_queries(root, f"{REASON} {split}", split, pictures)
        return
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
    for path in sorted(root.glob("grefcoco/grefs(*).json")):
        files = REFER_DATASETS["grefcoco"]._replace(
            name=f"{root.resolve().name}/grefcoco/{path.name}",
            split_file=f"grefcoco/{path.name}",
            image_folder=images,
        )
        yield check_refer_dataset(root, files, pictures)
    for split in REASON_SPLITS:
        if (root / REASON_FOLDER / split).is_dir():
            yield check_queries(root, f"{root.resolve().name}/{split}", split, pictures)


def check_refer_dataset(
    root: Path, files: ReferDataset, pictures: PictureCheck, needed: Sequence[str] = ()
) -> DataReport:
    """Check files, counts, refs, pictures and masks; ``needed`` splits must have refs."""
    report = DataReport(files.name)
    home = f"{files.home} ({files.ann_file}, {files.split_file})"
    missing = [name for name in (files.split_file, files.ann_file) if not (root / name).is_file()]
    # ``instances.json`` may be that of other refs beside.
    others = list((root / files.split_file).parent.glob("refs(*).p"))
    if files.split_file in missing and (others or files.ann_file in missing):
        report.absent = home
        return report
    if missing:
        report.add_trouble(f"{root / missing[0]} is missing", f"get it from {home}")
        return report
    anew = f"get it anew from {home}"
    try:
        refs = load_refs(root / files.split_file)
        _compare_counts(report, files, refs, needed, anew)
        images, annotations = load_instances(
            root / files.ann_file, annotation_ids={key for ref in refs for key in list_targets(ref)}
        )
        check_release(refs, annotations, f"{files.split_file} and {files.ann_file}")
    except ValueError as error:
        report.add_trouble(str(error), anew)
        return report
    records = _join(report, root, files, refs, (images, annotations))
    names = [Path(record["img_path"]).name for record in records]
    there = pictures.find(report, root / files.image_folder, names)
    usable = [record for record, name in zip(records, names) if name in there]
    if usable:
        pictures.open(report, range(len(usable)), usable.__getitem__, DecodeMasks())
    return report


def _compare_counts(
    report: DataReport, files: ReferDataset, refs: list[Record], needed: Sequence[str], anew: str
) -> None:
    """Counts of each split beside the published ones, and what cannot be done without a split."""
    names = list(dict.fromkeys([*files.splits, *(ref["split"] for ref in refs)]))
    report.found.append(f"{'split':8} {'refs':>8} {'sentences':>10} {'images':>8}")
    for name in names:
        chosen = [ref for ref in refs if ref["split"] == name]
        counts = (len(chosen), sum(len(ref["sentences"]) for ref in chosen))
        images = len({ref["image_id"] for ref in chosen})
        published = files.splits.get(name)
        verdict = "" if published is None else "  as published"
        if published is not None and published != counts:
            wanted = f"{published[0]:,} and {published[1]:,}"
            verdict = f"  published: {wanted}"
            report.add_trouble(
                f"{files.split_file} has {counts[0]:,} refs and {counts[1]:,} sentences in split "
                f"{name}, published are {wanted}",
                anew,
            )
        report.found.append(f"{name!s:8} {counts[0]:8,} {counts[1]:10,} {images:8,}{verdict}")
    if not refs:
        report.add_trouble(f"{files.split_file} holds no ref", anew)
        return
    there = {ref["split"] for ref in refs}
    for split in needed:
        if split not in there:
            report.add_trouble(
                f"{files.split_file} has no ref of split {split}: {SPLIT_USES[split]}",
                f"add refs of it, or check only what you need: --splits {' '.join(sorted(there))}",
            )


def _join(
    report: DataReport,
    root: Path,
    files: ReferDataset,
    refs: list[Record],
    instances: tuple[dict[int, Record], dict[int, Record]],
) -> list[Record]:
    """One record per image and split for the transforms; reports why the other refs cannot."""
    records: list[Record] = []
    problems: list[Problem] = []
    repeated = 0
    name, folder = Path(files.ann_file).name, str(root / files.image_folder)
    for split in dict.fromkeys(ref["split"] for ref in refs):
        chosen = [ref for ref in refs if ref["split"] == split]
        joined = join_refs(chosen, *instances, name, folder)
        records += [{**item, "ref_ids": list(item["segmentations"])} for item in joined.records]
        problems += joined.problems
        repeated += joined.repeated
    blank = [problem.expression_ids[0] for problem in problems if problem.is_blank]
    if blank:
        report.notes.append(f"{len(blank):,} sentences are blank and left out: {shorten(blank)}")
    if repeated:
        report.notes.append(f"{repeated:,} records stand there twice, word for word; used once")
    faults = [problem.reason for problem in problems if not problem.is_blank]
    if faults:
        report.add_trouble(
            f"{len(faults):,} refs or sentences of {files.split_file} cannot be used: "
            f"{shorten(faults)}",
            f"get {files.split_file} and {files.ann_file} from one source ({files.home}), or set "
            "bad_records='skip' to go on without them",
        )
    return records


def check_queries(root: Path, name: str, split: str, pictures: PictureCheck) -> DataReport:
    """Check the files, pictures and polygons of one split of ReasonSeg."""
    report = DataReport(name)
    if not (root / REASON_FOLDER / split).is_dir():
        report.absent = f"{REASON_HOME} ({REASON_FOLDER}/{split})"
        return report
    folder = {"img_path": REASON_FOLDER}
    dataset = ReasonSegDataset(str(root), folder, split, test_mode=True, bad_records="skip")
    report.found.append(f"{len(dataset):,} pictures with a query")
    faults = shorten(item.reason for item in dataset.skipped)
    if faults:
        report.add_trouble(f"{len(dataset.skipped):,} files cannot be used: {faults}", "mend them")
    load, paint = LoadRGBImage(ReasonSegDataset.orientation), PaintShapes()
    pictures.open(report, range(len(dataset)), dataset.build_record, lambda item: paint(load(item)))
    return report


def check_narratives(
    root: Path, name: str, files: NarrativeSplit, pictures: PictureCheck
) -> DataReport:
    """Check files, references, pictures and panoptic PNGs of one split."""
    report = DataReport(name)
    if not (root / files.ann_file).is_file():
        report.absent = f"{PNG_HOME} ({files.ann_file})"
        return report
    if not (root / files.panoptic_json).is_file():
        report.add_trouble(
            f"{root / files.panoptic_json} is missing", f"unpack {PANOPTIC_HOME} in {root}"
        )
        return report
    usual = files.panoptic_folders[0]  # F-LMM's place
    folder = next((item for item in files.panoptic_folders if (root / item).is_dir()), usual)
    if folder != usual:
        report.notes.append(
            f"the panoptic PNGs lie in {folder}: say so in the config, "
            f"data_prefix=dict(panoptic_path='{folder}/')"
        )
    dataset = _load_narratives(report, root, files, folder)
    if dataset is None:
        return report
    usable = list(range(len(dataset)))
    for key, place in (("img_path", files.image_folder), ("panoptic_path", folder)):
        names = [Path(dataset.get_data_info(index)[key]).name for index in range(len(dataset))]
        there = pictures.find(report, root / place, names)
        usable = [index for index in usable if names[index] in there]
    if usable:
        pictures.open(report, usable, dataset.build_record, DecodePanopticMasks())
    return report


def _load_narratives(
    report: DataReport, root: Path, files: NarrativeSplit, folder: str
) -> PanopticNarrativeDataset | None:
    """The data set without what it cannot use, which is reported; None where nothing loads."""
    way_out = f"get {files.ann_file} from {PNG_HOME} and {files.panoptic_json} from {PANOPTIC_HOME}"
    try:
        dataset = PanopticNarrativeDataset(
            data_root=str(root),
            ann_file=files.ann_file,
            panoptic_json=files.panoptic_json,
            data_prefix={"img_path": files.image_folder, "panoptic_path": folder},
            test_mode=True,
            bad_records="skip",
        )
    except ValueError as error:
        report.add_trouble(str(error), way_out)
        return None
    phrases = sum(len(dataset.get_data_info(index)["phrases"]) for index in range(len(dataset)))
    report.found.append(f"{len(dataset):,} narratives with {phrases:,} phrases to be grounded")
    if dataset.skipped:
        report.add_trouble(
            f"{len(dataset.skipped):,} phrases cannot be used: "
            f"{shorten(item.reason for item in dataset.skipped)}",
            f"{way_out}, or set bad_records='skip' to go on without them",
        )
    return dataset
