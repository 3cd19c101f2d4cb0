"""Panoptic files: real examples pixel by pixel, and what is told where they do not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_transforms import rgb_to_id

from flmm.data.grounding_dataset import BadRecordError, MissingFileError
from flmm.data.masks import (
    DecodePanopticMasks,
    decode_segment_ids,
    encode_segment_ids,
    load_panoptic,
)


def list_real_annotations(folder: Path) -> list[tuple[Path, list[dict[str, Any]]]]:
    """The real panoptic PNGs with COCO's records of their segments."""
    examples = json.loads((folder / "panoptic_examples.json").read_text())["annotations"]
    segments = {Path(item["file_name"]).stem: item["segments_info"] for item in examples}
    segments["000000039769"] = json.loads((folder / "coco_panoptic_annotations.txt").read_text())
    paths = sorted(folder.glob("*_panoptic.png"))
    return [(path, segments[path.name.removesuffix("_panoptic.png")]) for path in paths]


def test_every_real_segment_has_its_area_and_box(data_dir: Path) -> None:
    annotations = list_real_annotations(data_dir / "panoptic")
    assert len(annotations) == 2
    crowds = 0
    for path, segments in annotations:
        pixels = decode_segment_ids(path.read_bytes())
        with Image.open(path) as picture:
            assert np.array_equal(pixels, rgb_to_id(np.asarray(picture)))
        assert set(np.unique(pixels)) - {0} == {segment["id"] for segment in segments}
        for segment in segments:
            ys, xs = np.where(pixels == segment["id"])
            assert len(ys) == segment["area"]
            assert segment["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            crowds += segment["iscrowd"]
    assert crowds


def test_the_real_json_is_read(data_dir: Path) -> None:
    path = data_dir / "panoptic/panoptic_examples.json"
    content = json.loads(path.read_text())
    images = load_panoptic(path)
    assert set(images) == {142238, 439180}
    image = images[142238]
    assert (image.file_name, image.panoptic_name) == ("000000142238.jpg", "000000142238.png")
    assert (image.height, image.width) == (427, 640)
    things = {item["id"] for item in content["categories"] if item["isthing"]}
    for segment in content["annotations"][0]["segments_info"]:
        assert image.is_thing[segment["id"]] == (segment["category_id"] in things)
    assert set(image.is_thing.values()) == {True, False}


def test_encoding_is_the_inverse_of_decoding(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 2**24, (23, 31), np.int32)
    encode_segment_ids(ids).save(tmp_path / "ids.png")
    assert np.array_equal(decode_segment_ids((tmp_path / "ids.png").read_bytes()), ids)
    with Image.open(tmp_path / "ids.png") as picture:
        assert np.array_equal(rgb_to_id(np.asarray(picture)), ids)


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Any]:
    ids = np.zeros((4, 5), np.int32)
    ids[0, :3], ids[1:, 1] = 70000, 9
    encode_segment_ids(ids).save(tmp_path / "segments.png")
    return {
        "panoptic_path": str(tmp_path / "segments.png"),
        "image_id": 8,
        "height": 4,
        "width": 5,
        "segment_ids": [[9], [70000, 9], [5], [70000]],
    }


def test_a_phrases_mask_is_the_union_of_its_segments(results: dict[str, Any]) -> None:
    masks = DecodePanopticMasks()(results)["gt_masks"]
    assert masks.dtype == torch.bool and masks.shape == (4, 4, 5)
    assert [int(mask.sum()) for mask in masks] == [3, 6, 0, 3]
    assert torch.equal(masks[1], masks[0] | masks[3])
    assert masks[3, 0].tolist() == [True, True, True, False, False]


def test_a_png_that_does_not_fit_is_told(results: dict[str, Any], tmp_path: Path) -> None:
    decode = DecodePanopticMasks()
    with pytest.raises(MissingFileError, match=r"none.png \(image_id 8\) does not exist: check"):
        decode(results | {"panoptic_path": str(tmp_path / "none.png")})
    with pytest.raises(BadRecordError, match=r"is 4 x 5 px \(h x w\), its image 4 x 6: the masks"):
        decode(results | {"width": 6})
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(BadRecordError, match=r"grey.png \(image_id 8\).*its mode is L"):
        decode(results | {"panoptic_path": str(tmp_path / "grey.png")})
    (tmp_path / "cut.png").write_bytes(Path(results["panoptic_path"]).read_bytes()[:60])
    with pytest.raises(BadRecordError, match=r"cut.png .* no readable picture"):
        decode(results | {"panoptic_path": str(tmp_path / "cut.png")})


def make_panoptic() -> dict[str, Any]:
    return {
        "images": [{"id": 3, "file_name": "3.jpg", "height": 4, "width": 5}],
        "categories": [{"id": 1, "isthing": 1}],
        "annotations": [
            {"image_id": 3, "file_name": "3.png", "segments_info": [{"id": 9, "category_id": 1}]}
        ],
    }


def test_a_json_that_does_not_fit_is_told(tmp_path: Path) -> None:
    path = tmp_path / "panoptic.json"

    def load(**changes: Any) -> None:
        path.write_text(json.dumps(make_panoptic() | changes))
        load_panoptic(path)

    with pytest.raises(FileNotFoundError, match=r"panoptic_json .* does not exist: check panoptic"):
        load_panoptic(path)
    load()
    with pytest.raises(ValueError, match="image_id 3 is about an image that is not among"):
        load(images=[])
    with pytest.raises(ValueError, match="segment 9 is of category 1, which is not among the"):
        load(categories=[])
    with pytest.raises(ValueError, match="an annotation has no field 'segments_info'"):
        load(annotations=[{"image_id": 3, "file_name": "3.png"}])
    path.write_text("[")
    with pytest.raises(ValueError, match="is no readable JSON"):
        load_panoptic(path)
