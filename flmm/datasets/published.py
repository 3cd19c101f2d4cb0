"""The published referring data sets: where their files lie and how much is in them.

Folders are F-LMM's. The counts are those of the data sets' own pages (lichengunc/refer), refs and
sentences of each split; ``tools/check_data.py`` compares them with the files. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    name: str
    ann_file: str
    split_file: str
    splits: dict[str, PublishedSplit]


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

__all__ = ["REFER_DATASETS", "PublishedSplit", "ReferDataset"]
