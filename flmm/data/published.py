"""The published data sets: where their files lie, how much is in them, and where to get them.

Folders are F-LMM's. The counts are those of the data sets' own pages (lichengunc/refer), refs and
sentences of each split; ``tools/check_data.py`` compares them with the files. Nothing is read here.
"""

from __future__ import annotations

from dataclasses import dataclass

REFER_HOME = "https://github.com/lichengunc/refer"
PNG_HOME = "https://bcv-uniandes.github.io/panoptic-narrative-grounding/#downloads"
PANOPTIC_HOME = "http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip"
IMAGE_HOMES = {
    name: f"http://images.cocodataset.org/zips/{name}.zip"
    for name in ("train2014", "train2017", "val2017")
}


@dataclass(frozen=True)
class PublishedSplit:
    """What a split holds; ``None`` where no count was published that we could verify."""

    refs: int | None
    sentences: int | None


@dataclass(frozen=True)
class ReferDataset:
    """Files of one published data set.

    Attributes:
        name: as evaluation tables print it.
        ann_file: COCO ``instances.json``, relative to the data root.
        split_file: ``refs(*).p``, relative to the data root.
        splits: by name, in the order in which papers print them.
        image_folder: relative to the data root.
    """

    name: str
    ann_file: str
    split_file: str
    splits: dict[str, PublishedSplit]
    image_folder: str = "train2014"


@dataclass(frozen=True)
class NarrativeSplit:
    """Files of one split of Panoptic Narrative Grounding, relative to the data root.

    Attributes:
        ann_file: the narratives.
        panoptic_json: COCO's panoptic annotations.
        panoptic_folders: where the panoptic PNGs may lie; F-LMM's place first.
        image_folder: of the pictures.
    """

    ann_file: str
    panoptic_json: str
    panoptic_folders: tuple[str, ...]
    image_folder: str


REFER_DATASETS = {
    item.name: item
    for item in (
        ReferDataset(
            "refcoco",
            "refcoco/instances.json",
            "refcoco/refs(unc).p",
            {
                "train": PublishedSplit(42404, 120624),
                "val": PublishedSplit(3811, 10834),
                "testA": PublishedSplit(1975, 5657),
                "testB": PublishedSplit(1810, 5095),
            },
        ),
        ReferDataset(
            "refcoco+",
            "refcoco+/instances.json",
            "refcoco+/refs(unc).p",
            {
                "train": PublishedSplit(42278, 120191),
                "val": PublishedSplit(3805, 10758),
                "testA": PublishedSplit(1975, 5726),
                "testB": PublishedSplit(1798, 4889),
            },
        ),
        ReferDataset(
            "refcocog",
            "refcocog/instances.json",
            "refcocog/refs(umd).p",
            {
                "train": PublishedSplit(42226, 80512),
                "val": PublishedSplit(2573, 4896),
                "test": PublishedSplit(5023, 9602),
            },
        ),
        ReferDataset(
            "refcocog_google",
            "refcocog/instances.json",
            "refcocog/refs(google).p",
            {"train": PublishedSplit(None, None), "val": PublishedSplit(None, None)},
        ),
    )
}

PNG_SPLITS = {
    split: NarrativeSplit(
        f"annotations/png_coco_{split}2017.json",
        f"annotations/panoptic_{split}2017.json",
        (f"annotations/panoptic_{split}2017", f"panoptic_{split}2017"),
        f"{split}2017",
    )
    for split in ("train", "val")
}

PNG = "png"
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
DATASETS = (*REFER_DATASETS, PNG)

__all__ = [
    "DATASETS",
    "IMAGE_HOMES",
    "NARRATIVE_USES",
    "PANOPTIC_HOME",
    "PNG",
    "PNG_HOME",
    "PNG_SPLITS",
    "REFER_DATASETS",
    "REFER_HOME",
    "SPLIT_USES",
    "NarrativeSplit",
    "PublishedSplit",
    "ReferDataset",
]
