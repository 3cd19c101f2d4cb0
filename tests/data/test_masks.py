"""Masks are decoded as pycocotools' own COCO class decodes them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from flmm.data.masks import decode_segmentation


def decode_with_coco(annotation: dict[str, Any], height: int, width: int) -> np.ndarray:
    coco = COCO()
    coco.imgs = {annotation["image_id"]: {"height": height, "width": width}}
    return coco.annToMask(annotation).astype(bool)


def list_real_annotations(data_dir: Path) -> list[tuple[dict[str, Any], int, int]]:
    """Every COCO annotation of the real test data, with the size of its picture."""
    found = []
    for name in ("coco/instances_people.json", "refcoco/instances.json"):
        content = json.loads((data_dir / name).read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        found += [(item, *sizes[item["image_id"]]) for item in content["annotations"]]
    with Image.open(data_dir / "coco" / "000000039769.png") as image:
        width, height = image.size
    loose = json.loads((data_dir / "coco" / "coco_annotations.txt").read_text())
    return found + [(item, height, width) for item in loose]


def test_real_annotations(data_dir: Path) -> None:
    annotations = list_real_annotations(data_dir)
    assert len(annotations) == 12
    for annotation, height, width in annotations:
        mask = decode_segmentation(annotation["segmentation"], height, width)
        assert np.array_equal(mask, decode_with_coco(annotation, height, width))


def test_areas_of_real_annotations_are_those_of_pycocotools(data_dir: Path) -> None:
    for annotation, height, width in list_real_annotations(data_dir):
        coco = COCO()
        coco.imgs = {annotation["image_id"]: {"height": height, "width": width}}
        area = coco_mask.area(coco.annToRLE(annotation))
        assert decode_segmentation(annotation["segmentation"], height, width).sum() == area
        # The published area is the polygon's; its pixels differ by its rim.
        assert area == pytest.approx(annotation["area"], rel=0.05)


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


@pytest.mark.parametrize("polygons", [[], [[]], [[1, 1]], [[1, 1, 3, 2]]])
def test_polygons_of_fewer_than_three_points_are_an_empty_mask(polygons: list[Any]) -> None:
    assert not decode_segmentation(polygons, 3, 4).any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 45), min_size=4, max_size=4))
def test_a_line_beside_a_polygon_adds_nothing(line: list[float]) -> None:
    triangle = [1.0, 1.0, 20.0, 2.0, 9.0, 17.0]
    expected = decode_with_coco({"image_id": 1, "segmentation": [triangle, line]}, 24, 30)
    assert np.array_equal(decode_segmentation([line, triangle], 24, 30), expected)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 3], "counts": "0"}, r"of size \[4, 3\] \(h, w\), its image of \[3, 4\]"),
        ({"counts": "0"}, r"has \['counts'\]"),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "a list of polygons or an RLE dict"),
        (None, "a list of polygons or an RLE dict, got None"),
        ([[1, 1, 5, 1, 5, 5, 3]], "a polygon is pairs x, y; this one has 7 numbers"),
        ([[1, 1, 5, 1, 5, None]], "has the coordinate None, which is no pixel position"),
        ([[1, 1, 5, 1, 5, math.nan]], "has the coordinate nan"),
        ([[1, 1, 5, 1, 5, 1e12]], "has the coordinate 1000000000000.0"),
        ([[[1, 1], [5, 1], [5, 5], [2, 3]]], r"has the coordinate \[1, 1\]"),
        ({"size": [3, 4], "counts": [3, 5]}, "runs of the RLE do not fill its 3 x 4 px"),
        ({"size": [3, 4], "counts": [3, 500]}, "runs of the RLE do not fill"),
        ({"size": [3, 4], "counts": [20, -8]}, "runs of the RLE do not fill"),
        ({"size": [3, 4], "counts": ";"}, "runs of the RLE do not fill"),
        ({"size": [3, 4], "counts": [True, 11]}, "runs of the RLE do not fill"),
        ({"size": [3, 4], "counts": [3.0, 9]}, "runs of the RLE do not fill"),
        ({"size": [3, 4], "counts": [2**64, 12 - 2**64]}, "runs of the RLE do not fill"),
        ({"size": [3, 4], "counts": "漢字"}, "characters that no run is written with: '漢字'"),
        ({"size": [3, 4], "counts": "<p"}, "characters that no run is written with: '<p'"),
        # Its runs, 12, fill the mask; pycocotools reads on behind the string, and breaks the heap.
        ({"size": [3, 4], "counts": "<P"}, "end inside a number: they are cut off"),
        ({"size": [3, 4], "counts": "<o"}, "end inside a number: they are cut off"),
        ({"size": [3, 4], "counts": "\\PPPPPP0"}, "a number of more than 32 bits"),
        ({"size": [3], "counts": "<"}, r"size of an RLE is \[h, w\] in px, this one has \[3\]"),
        ([[1, 1, 5, 1, 5, True]], "has the coordinate True"),
        ([[1, 1, 5, 1, 5, 10**400]], "has the coordinate 10000"),
        ([[0, 0, 9e4, 9e4] * 20], "outlines are 3,600,000 px long: they are no object's"),
        ({"size": [3, 4], "counts": 12}, "counts of an RLE are a list or a string, got 12"),
    ],
)
def test_wrong_segmentations_are_told(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_segmentation(segmentation, 3, 4)


def test_a_mask_larger_than_any_picture_takes_no_memory() -> None:
    for segmentation in ([[0, 0, 9, 0, 9, 9]], {"size": [10**6, 10**6], "counts": [10**12]}):
        with pytest.raises(ValueError, match="over 268,435,456 px"):
            decode_segmentation(segmentation, 10**6, 10**6)


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_compressed_rle_that_is_cut_off_is_told(cut: int) -> None:
    """pycocotools fills what is missing with whatever lies in memory."""
    mask = np.random.default_rng(3).random((40, 30)) > 0.5
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = rle["counts"].decode()[:-cut]
    with pytest.raises(ValueError, match=r"do not fill its 40 x 30 px|end inside a number"):
        decode_segmentation({"size": [40, 30], "counts": counts}, 40, 30)
