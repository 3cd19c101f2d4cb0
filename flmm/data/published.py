"""The published data sets: where their files lie, how much is in them, and where to get them.

Folders are F-LMM's. The counts, refs and sentences of each split, are those of the data sets' own
pages (lichengunc/refer); ``tools/check_data.py`` compares them with the files.
"""

from __future__ import annotations

from typing import NamedTuple

REFER_HOME = "https://github.com/lichengunc/refer"
GENERALISED_HOME = "https://github.com/henghuiding/gRefCOCO"
REASON_HOME = "https://github.com/dvlab-research/LISA#dataset"
PNG_HOME = "https://bcv-uniandes.github.io/panoptic-narrative-grounding/#downloads"
PANOPTIC_HOME = "http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip"
# Folder -> what is to be unpacked there.
IMAGE_HOMES = {
    name: f"http://images.cocodataset.org/zips/{name}.zip"
    for name in ("train2014", "train2017", "val2017")
} | dict.fromkeys(
    ("panoptic_train2017", "panoptic_val2017"), f"the zip of the PNGs that {PANOPTIC_HOME} holds"
)


class ReferDataset(NamedTuple):
    """Files of one data set in RefCOCO's or gRefCOCO's layout, relative to the data root.

    Attributes:
        name: as evaluation tables print it.
        splits: name -> published (refs, sentences), in the order in which papers print them;
            ``None`` where no count was published that we could verify.
        home: where to get the two files.
    """

    name: str
    ann_file: str
    split_file: str
    splits: dict[str, tuple[int, int] | None]
    image_folder: str = "train2014"
    home: str = REFER_HOME


class NarrativeSplit(NamedTuple):
    """Files of one split of Panoptic Narrative Grounding, relative to the data root.

    Attributes:
        panoptic_folders: where the panoptic PNGs may lie; F-LMM's place first.
    """

    ann_file: str
    panoptic_json: str
    panoptic_folders: tuple[str, ...]
    image_folder: str


_SPLITS = {"unc": ("train", "val", "testA", "testB"), "umd": ("train", "val", "test")}
REFER_DATASETS = {
    name: ReferDataset(
        *(name, f"{name}/instances.json", f"{name}/refs({version}).p"),
        dict(zip(_SPLITS[version], counts)),
    )
    for name, version, counts in (
        ("refcoco", "unc", ((42404, 120624), (3811, 10834), (1975, 5657), (1810, 5095))),
        ("refcoco+", "unc", ((42278, 120191), (3805, 10758), (1975, 5726), (1798, 4889))),
        ("refcocog", "umd", ((42226, 80512), (2573, 4896), (5023, 9602))),
    )
}
REFER_DATASETS["refcocog_google"] = ReferDataset(
    *("refcocog_google", "refcocog/instances.json", "refcocog/refs(google).p"),
    {"train": None, "val": None},
)
REFER_DATASETS["grefcoco"] = ReferDataset(
    *("grefcoco", "grefcoco/instances.json", "grefcoco/grefs(unc).json"),
    dict.fromkeys(("train", "val", "testA", "testB")),
    home=GENERALISED_HOME,
)

PNG_SPLITS = {
    split: NarrativeSplit(
        f"annotations/png_coco_{split}2017.json",
        f"annotations/panoptic_{split}2017.json",
        (f"annotations/panoptic_{split}2017", f"panoptic_{split}2017"),
        f"{split}2017",
    )
    for split in ("train", "val")
}

PNG, REASON = "png", "reasonseg"
REASON_FOLDER = "reason_seg/ReasonSeg"
REASON_SPLITS = ("train", "val", "test")
# What cannot be done without a split, for the configs of its data set.
SPLIT_USES = {
    "train": "nothing can be trained",
    "val": "no training can be validated (val_dataloader, val_cfg and val_evaluator must be None)",
    "testA": "tools/test.py has nothing to test, tools/eval_refcoco.py needs other --splits",
    "testB": "tools/eval_refcoco.py needs other --splits",
}
NARRATIVE_USES = {
    "train": "no training on narratives",
    "val": "nothing for tools/eval_png.py",
}
DATASETS = (*REFER_DATASETS, PNG, REASON)
