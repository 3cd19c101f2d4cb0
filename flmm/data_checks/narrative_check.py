"""Is Panoptic Narrative Grounding, or a data set in its layout, complete and whole?

Data in: a data root and the names of its files. Data out: a report. The records are judged by the
data set itself.
"""

from __future__ import annotations

from pathlib import Path

from flmm.data.panoptic import DecodePanopticMasks
from flmm.data.png import PanopticNarrativeDataset
from flmm.data.published import PANOPTIC_HOME, PNG_HOME, NarrativeSplit
from flmm.data_checks.check_report import DataReport, shorten
from flmm.data_checks.picture_check import PictureCheck


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
    dataset = _load(report, root, files, folder)
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


def _load(
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
