"""A data set of four images in RefCOCO's layout, with every kind of segmentation."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.toy_image_processor import ToyImageProcessor

SIZES = {1: (20, 30), 2: (31, 17), 3: (8, 9), 4: (12, 12)}  # image_id -> (h, w)


def make_mask(image_id: int, seed: int) -> np.ndarray:
    height, width = SIZES[image_id]
    return np.random.default_rng(seed).random((height, width)) > 0.6


def make_uncompressed_rle(mask: np.ndarray) -> dict[str, Any]:
    flat, counts, value = mask.flatten(order="F"), [], False
    while flat.size:
        run = int(np.argmax(flat != value)) if (flat != value).any() else flat.size
        counts.append(run)
        flat, value = flat[run:], not value
    return {"size": list(mask.shape), "counts": counts}


def make_compressed_rle(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def make_annotations() -> list[dict[str, Any]]:
    polygons = [[2.5, 3.0, 14.2, 3.9, 13.0, 15.5, 2.0, 12.0], [20.0, 1.0, 27.5, 1.0, 24.0, 9.0]]
    return [
        {
            "id": 10,
            "image_id": 2,
            "iscrowd": 0,
            "category_id": 1,
            "segmentation": [[1, 1, 9, 1, 9, 20, 1, 20]],
        },
        {"id": 11, "image_id": 1, "iscrowd": 0, "category_id": 1, "segmentation": polygons},
        {
            "id": 12,
            "image_id": 1,
            "iscrowd": 1,
            "category_id": 1,
            "segmentation": make_uncompressed_rle(make_mask(1, 5)),
        },
        {
            "id": 13,
            "image_id": 1,
            "iscrowd": 0,
            "category_id": 1,
            "segmentation": make_compressed_rle(make_mask(1, 6)),
        },
        {
            "id": 14,
            "image_id": 3,
            "iscrowd": 0,
            "category_id": 1,
            "segmentation": [[1, 1, 6, 1, 6, 6]],
        },
        {"id": 15, "image_id": 4, "iscrowd": 0, "category_id": 1, "segmentation": []},
    ]


def make_ref(
    ref_id: int, ann_id: int, image_id: int, texts: list[str], split: str = "train", kind: str = ""
) -> dict[str, Any]:
    sentences = [
        {"raw": text, "sent": text.lower(), "tokens": text.split(), "sent_id": 100 * ref_id + index}
        | ({"kind": kind} if kind else {})
        for index, text in enumerate(texts)
    ]
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "file_name": f"{image_id}_{ann_id}.png",
        "split": split,
        "sentences": sentences,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
    }


def make_refs() -> list[dict[str, Any]]:
    return [
        make_ref(7, 10, 2, ["Tall THING ", "the tower", "left"], kind="shape"),
        make_ref(3, 11, 1, ["red dog", "dog"]),
        make_ref(4, 11, 1, ["the same dog again"]),  # shares its annotation with ref 3
        make_ref(5, 12, 1, ["crowd", "the people", "all of them", "folk"]),
        make_ref(8, 10, 2, ["same tower"]),
        make_ref(6, 13, 1, ["noise"]),
        make_ref(9, 14, 3, ["triangle", "corner"], split="val"),
        make_ref(2, 15, 4, ["nothing"], split="testA"),
    ]


def write_refcoco(folder: Path, refs: list[Any], annotations: list[dict[str, Any]]) -> Path:
    """Write images, ``instances.json`` and ``refs(unc).p``; the folder."""
    (folder / "images").mkdir(parents=True)
    images = []
    for image_id, (height, width) in SIZES.items():
        pixels = np.random.default_rng(image_id).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{image_id}.png")
        images.append(
            {"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width}
        )
    content = {"images": images, "annotations": annotations, "categories": []}
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return folder


@pytest.fixture
def mini_refcoco(tmp_path: Path) -> Path:
    return write_refcoco(tmp_path / "mini", make_refs(), make_annotations())


@pytest.fixture
def build_dataset(mini_refcoco: Path) -> Any:
    """A function that builds the data set of ``mini_refcoco`` with the given arguments."""
    from flmm.data.refcoco import RefCocoGroundingDataset

    def build(**kwargs: Any) -> RefCocoGroundingDataset:
        arguments = {
            "data_root": str(mini_refcoco),
            "data_prefix": {"img_path": "images/"},
            "ann_file": "instances.json",
            "split_file": "refs(unc).p",
            "image_processor": {"type": ToyImageProcessor},
        }
        return RefCocoGroundingDataset(**(arguments | kwargs))

    return build


@pytest.fixture
def write_mini() -> Any:
    """The function that writes a data set from given records."""
    return write_refcoco
