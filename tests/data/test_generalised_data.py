"""gRefCOCO's and ReasonSeg's files: which expressions come, and with which masks."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from flmm.data.grounding_dataset import BadRecordError
from flmm.data.masks import decode_segmentation
from flmm.data.reason_seg import ReasonSegDataset, paint_shapes
from flmm.data.refcoco import RefCocoGroundingDataset
from flmm.data_checks.data_check import check_data_root
from flmm.toy.shape_files import write_dataset
from tests.data.conftest import make_ref
from tests.toy_image_processor import ToyImageProcessor


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "shapes"
    write_dataset(folder, 24, seed=3)
    return folder


@pytest.fixture
def grefs() -> list[dict[str, Any]]:
    """Of the images and annotations of ``mini_refcoco``; annotation 12 is a crowd."""
    targets = {1: [11, 13], 2: [-1], 3: [13, 12], 4: [11], 5: 13}
    refs = [make_ref(key, 0, 1, [f"text {key}"]) for key in targets]
    return [{**ref, "ann_id": targets[ref["ref_id"]]} for ref in refs]


def build(folder: Path, refs: Any, **kwargs: Any) -> RefCocoGroundingDataset:
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    return RefCocoGroundingDataset(
        data_root=str(folder),
        data_prefix={"img_path": "images/"},
        ann_file="instances.json",
        split_file="grefs(unc).json",
        image_processor={"type": ToyImageProcessor},
        text_mode="all",
        **{"test_mode": True} | kwargs,
    )


def test_the_truth_is_the_union_without_crowds(mini_refcoco: Path, grefs: Any) -> None:
    coco = COCO(str(mini_refcoco / "instances.json"))
    masks = {key: coco.annToMask(item).astype(bool) for key, item in coco.anns.items() if key < 15}
    (item,) = build(mini_refcoco, grefs)
    sample = item["data_samples"]
    assert sample.expression_ids == [100, 200, 300, 400, 500]
    assert [name for (name,) in sample.expression_groups] == [
        *("several", "none", "one", "one", "one")
    ]
    expected = [masks[11] | masks[13], np.zeros_like(masks[11]), masks[13], masks[11], masks[13]]
    assert np.array_equal(sample.gt_masks.numpy(), np.stack(expected))


def test_training_leaves_expressions_of_nothing_out(mini_refcoco: Path, grefs: Any) -> None:
    sample = build(mini_refcoco, grefs, test_mode=False)[0]["data_samples"]
    assert sample.expression_ids == [100, 300, 400, 500] and sample.left_out == [200]
    assert len(sample.expression_groups) == 4


def test_files_of_two_releases_are_one_clear_sentence(mini_refcoco: Path, grefs: Any) -> None:
    older = [{**ref, "ann_id": [9000 + ref["ref_id"]]} for ref in grefs]
    for way in ("stop", "skip"):
        with pytest.raises(
            ValueError,
            match=r"grefs\(unc\).json and .*instances.json do not belong together: 5 of 5 refs .*"
            r"\(first: ref 1, ann_id \[9001\]\): get both files from one release",
        ):
            build(mini_refcoco, older, bad_records=way).full_init()


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        ([12], r"ref 4 has ann_id \[12\], all of them crowds"),
        ([11, 99], "ref 4 has ann_id 99, which is not in instances.json"),
        ([11, 10], "ref 4 is about image 1, its annotation 10 about image 2"),
    ],
)
def test_a_ref_that_cannot_be_used_is_named(
    mini_refcoco: Path, grefs: Any, targets: list[int], reason: str
) -> None:
    grefs[3]["ann_id"] = targets
    with pytest.raises(BadRecordError, match=reason):
        build(mini_refcoco, grefs).full_init()
    dataset = build(mini_refcoco, grefs, bad_records="skip")
    assert [item.expression_id for item in dataset.skipped] == [400]


def test_an_annotation_id_that_is_none_is_refused(mini_refcoco: Path, grefs: Any) -> None:
    grefs[0]["ann_id"] = [11, [13]]
    with pytest.raises(ValueError, match=r"ref 0 has the ann_id \[13\]: wanted a number"):
        build(mini_refcoco, grefs).full_init()


def test_drawn_expressions_have_their_masks(drawn: Path) -> None:
    """Against the annotations, by an own reading of the files."""
    instances = json.loads((drawn / "grefcoco/instances.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in instances["images"]}
    annotations = {item["id"]: item for item in instances["annotations"]}
    refs = json.loads((drawn / "grefcoco/grefs(unc).json").read_text())
    by_id = {ref["sent_ids"][0]: ref for ref in refs if ref["split"] == "train"}
    dataset = RefCocoGroundingDataset(
        data_root=str(drawn),
        data_prefix={"img_path": "images/"},
        ann_file="grefcoco/instances.json",
        split_file="grefcoco/grefs(unc).json",
        pipeline=[{"type": "flmm.DecodeMasks"}],
        text_mode="all",
    )
    seen = dict.fromkeys(("none", "one", "several"), 0)
    for record in dataset:
        rows = zip(record["expression_ids"], record["expression_groups"], record["gt_masks"])
        for key, (group,), mask in rows:
            ref = by_id.pop(key)
            own = [annotations[target] for target in ref["ann_id"] if target != -1]
            truth = np.zeros(sizes[ref["image_id"]], bool)
            for item in own:
                truth |= decode_segmentation(item["segmentation"], *truth.shape)
            assert np.array_equal(mask.numpy(), truth)
            assert group == ("none", "one", "several")[min(len(own), 2)]
            seen[group] += 1
    assert not by_id and min(seen.values()) > 10


def write_query(folder: Path, name: str, content: Any, encoding: str = "utf-8") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.jpg")
    text = json.dumps(content, ensure_ascii=False)
    (folder / f"{name}.json").write_bytes(text.encode(encoding))


def make_shape(label: str, *points: tuple[float, float]) -> dict[str, Any]:
    return {"label": label, "points": [list(point) for point in points]}


SQUARE = ((2, 2), (12, 2), (12, 12), (2, 12))
INNER = ((5.9, 5), (8, 5), (8, 8), (5.2, 8))
QUERY = {"text": [" the café's cup ", "cup"], "is_sentence": False}


def build_queries(folder: Path, **kwargs: Any) -> ReasonSegDataset:
    processor = {"type": ToyImageProcessor}
    return ReasonSegDataset(
        str(folder), {"img_path": "."}, image_processor=processor, **{"test_mode": True} | kwargs
    )


def test_smaller_shapes_lie_on_larger_ones(tmp_path: Path) -> None:
    shapes = [make_shape("Ignore", *INNER), make_shape("target", *SQUARE)]
    shapes.append(make_shape("flag", (0, 0), (29, 0), (29, 19)))
    content = {**QUERY, "shapes": shapes}
    write_query(tmp_path / "val", "b", content, encoding="cp1252")
    write_query(tmp_path / "val", "a", {**content, "is_sentence": True, "text": ["Which? "]})
    long, short = (item["data_samples"] for item in build_queries(tmp_path))
    assert (long.phrases, short.phrases) == (["Which?"], ["the café's cup"])
    assert (long.expression_groups, short.expression_groups) == ([("long",)], [("short",)])
    expected = np.zeros((20, 30), int)
    expected[2:13, 2:13] = 1  # outlines belong to a shape
    expected[5:9, 5:9] = 255  # corners are cut to whole pixels
    assert np.array_equal(short.gt_masks[0].numpy(), expected == 1)
    assert np.array_equal(short.ignored.numpy(), expected == 255)
    assert short.expression_ids == ["b"] and short.original_size == (20, 30)


def test_a_picture_lies_as_people_see_it(tmp_path: Path) -> None:
    """As OpenCV reads it, on which the polygons are drawn."""
    write_query(tmp_path / "val", "a", {**QUERY, "shapes": [make_shape("target", *SQUARE)]})
    path = tmp_path / "val" / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    sample = build_queries(tmp_path)[0]["data_samples"]
    assert sample.original_size == cv2.imread(str(path)).shape[:2] == (30, 20)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"text": ["a"], "shapes": []}, "a.json has no field 'is_sentence'"),
        ({**QUERY, "text": [" "], "shapes": []}, "a.json has no query"),
        ({**QUERY, "text": "cup", "shapes": []}, "a.json: text is no list"),
        ({**QUERY, "shapes": [{"points": []}]}, "a shape has no field 'label'"),
        ({**QUERY, "shapes": [make_shape("target", (1, 2, 3))]}, r"points are pairs \[x, y\]"),
        ({**QUERY, "shapes": [make_shape("target", (1, 1e12))]}, "no pixel position"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: Any, reason: str) -> None:
    good = {**QUERY, "shapes": [make_shape("target", *SQUARE)]}
    write_query(tmp_path / "val", "a", content)
    write_query(tmp_path / "val", "b", good)
    with pytest.raises(BadRecordError, match=reason):
        list(build_queries(tmp_path))
    dataset = build_queries(tmp_path, bad_records="skip")
    reasons = [item["data_samples"].get("skipped") for item in dataset]
    assert len(dataset.skipped) + sum(map(bool, reasons)) == 1


def test_a_folder_without_queries_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"val holds no \*.json: check data_root"):
        build_queries(tmp_path).full_init()


def test_drawn_queries_are_masks_of_whole_objects(drawn: Path) -> None:
    """Their polygons are painted to the very pixels of the objects, and the checks read both."""
    instances = json.loads((drawn / "instances.json").read_text())
    sizes = {Path(im["file_name"]).stem: (im["height"], im["width"]) for im in instances["images"]}
    ids = {Path(image["file_name"]).stem: image["id"] for image in instances["images"]}
    paths = list((drawn / "reason_seg/ReasonSeg").rglob("*.json"))
    for path in paths:
        size = sizes[path.stem]
        own = [a for a in instances["annotations"] if a["image_id"] == ids[path.stem]]
        objects = [decode_segmentation(item["segmentation"], *size) for item in own]
        shapes = json.loads(path.read_text())["shapes"]
        painted = paint_shapes([(item["label"], item["points"]) for item in shapes], *size)
        for value in {item["label"] for item in shapes}:
            mask = painted == {"target": 1, "ignore": 255}[value]
            inside = [item for item in objects if (item & mask).any()]
            assert np.array_equal(np.any(inside, axis=0), mask)
    assert len(paths) >= 3
    reports = {report.name: report for report in check_data_root(drawn)}
    assert {"shapes/grefcoco/grefs(unc).json", "shapes/val", "shapes/test"} <= set(reports)
    assert not [report for report in reports.values() if report.troubles]
