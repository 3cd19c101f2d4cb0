"""Masks are decoded as pycocotools' own COCO class decodes them."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from flmm.datasets.masks import decode_segmentation


def decode_with_coco(annotation: dict[str, Any], height: int, width: int) -> np.ndarray:
    coco = COCO()
    coco.imgs = {annotation["image_id"]: {"height": height, "width": width}}
    return coco.annToMask(annotation).astype(bool)


def list_real_annotations(data_dir: Path) -> list[tuple[dict[str, Any], int, int]]:
    found = []
    for name in ("coco/instances_people.json", "refcoco/instances.json"):
        content = json.loads((data_dir / name).read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        found += [(item, *sizes[item["image_id"]]) for item in content["annotations"]]
    return found


def test_real_annotations(data_dir: Path) -> None:
    annotations = list_real_annotations(data_dir)
    assert annotations
    for annotation, height, width in annotations:
        mask = decode_segmentation(annotation["segmentation"], height, width)
        assert np.array_equal(mask, decode_with_coco(annotation, height, width))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.lists(st.lists(st.floats(-5, 45), min_size=6, max_size=12), min_size=1, max_size=3),
)
def test_polygons_in_and_outside_the_picture(
    height: int, width: int, polygons: list[list[float]]
) -> None:
    polygons = [polygon[: len(polygon) // 2 * 2] for polygon in polygons]
    expected = decode_with_coco({"image_id": 1, "segmentation": polygons}, height, width)
    assert np.array_equal(decode_segmentation(polygons, height, width), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_rle_of_every_kind(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) > 0.5
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    flat = np.concatenate([[False], mask.flatten(order="F"), [mask.flat[-1] ^ True]])
    runs = np.diff(np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1])])).tolist()
    for counts in (rle["counts"], rle["counts"].decode(), runs):
        decoded = decode_segmentation({"size": [height, width], "counts": counts}, height, width)
        assert decoded.dtype == bool
        assert np.array_equal(decoded, mask)


def test_no_polygon_is_an_empty_mask() -> None:
    assert not decode_segmentation([], 3, 4).any()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 3], "counts": "0"}, r"of size \[4, 3\] \(h, w\), its image of \[3, 4\]"),
        ({"counts": "0"}, r"has \['counts'\]"),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "a list of polygons or an RLE dict"),
        (None, "a list of polygons or an RLE dict, got None"),
    ],
)
def test_wrong_segmentations_are_told(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message), contextlib.redirect_stdout(None):
        decode_segmentation(segmentation, 3, 4)
