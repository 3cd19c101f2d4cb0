"""The narrative data set: captions, phrases, groups and masks; draws; mixing; bad records."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset
from mmengine.registry import init_default_scope
from PIL import Image
from transformers.image_transforms import rgb_to_id

from flmm.config import load_config
from flmm.data.grounding_dataset import BadRecordError, EpochSampler, MissingFileError
from flmm.data.masks import encode_segment_ids
from flmm.data.png import PanopticNarrativeDataset
from flmm.data.refcoco import RefCocoGroundingDataset
from flmm.records import Continuation, SkippedExpression
from flmm.registry import DATASETS, MODELS
from flmm.toy.shape_files import write_dataset
from tests.toy_image_processor import ToyImageProcessor

CONFIGS = Path(__file__).parents[2] / "configs"
# Segment id -> (category, columns of the 6 x 12 pictures).
SEGMENTS = {65793: (1, 0, 3), 300: (1, 3, 6), 70000: (2, 6, 10), 5: (3, 10, 12)}


def utter(text: str, ids: tuple[int, ...] = (), plural: bool = False) -> dict[str, Any]:
    segment_ids = [str(item) for item in ids]
    return {"utterance": text, "segment_ids": segment_ids, "plural": plural, "noun": bool(ids)}


def make_narratives() -> list[dict[str, Any]]:
    return [
        {"image_id": "11", "caption": "Nothing here.", "segments": [utter("nothing here.")]},
        {
            "image_id": "11",
            "caption": "Two Dogs on grass, one dog, and the sky with grass.",
            "segments": [
                *(utter("two dogs", (65793, 300), True), utter("on"), utter("grass", (70000,))),
                *(utter(","), utter("one dog", (300,)), utter(", and the")),
                *(utter("sky with grass", (5, 70000), True), utter(".")),
            ],
        },
        {
            "image_id": "12",
            "caption": "Dog and sky.",
            "segments": [utter("dog and sky", (5, 65793), True), utter(".")],
        },
    ]


def write_png(folder: Path, narratives: list[dict[str, Any]]) -> Path:
    """Two pictures in the published layout."""
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations/panoptic_val2017").mkdir(parents=True)
    ids = np.zeros((6, 12), np.int32)
    for segment_id, (_, left, right) in SEGMENTS.items():
        ids[1:, left:right] = segment_id
    images, annotations = [], []
    for image_id in (11, 12):
        stem = f"{image_id:012d}"
        Image.new("RGB", (12, 6), (image_id, 0, 0)).save(folder / f"val2017/{stem}.jpg")
        encode_segment_ids(ids).save(folder / f"annotations/panoptic_val2017/{stem}.png")
        images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": 6, "width": 12})
        infos = [{"id": key, "category_id": value[0]} for key, value in SEGMENTS.items()]
        annotations.append(
            {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": infos}
        )
    categories = [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 0}, {"id": 3, "isthing": 0}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations/panoptic_val2017.json").write_text(json.dumps(content))
    (folder / "annotations/png_coco_val2017.json").write_text(json.dumps(narratives))
    return folder


Build = Callable[..., PanopticNarrativeDataset]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_png(tmp_path / "coco", make_narratives())


@pytest.fixture
def build(folder: Path) -> Build:
    def build_dataset(
        narratives: list[dict[str, Any]] | None = None, **kwargs: Any
    ) -> PanopticNarrativeDataset:
        if narratives is not None:
            path = folder / "annotations/png_coco_val2017.json"
            path.write_text(json.dumps(narratives))
        arguments: dict[str, Any] = {
            "data_root": str(folder),
            "ann_file": "annotations/png_coco_val2017.json",
            "panoptic_json": "annotations/panoptic_val2017.json",
            "data_prefix": {
                "img_path": "val2017/",
                "panoptic_path": "annotations/panoptic_val2017/",
            },
            "image_processor": {"type": ToyImageProcessor},
        }
        return PanopticNarrativeDataset(**(arguments | kwargs))

    return build_dataset


def test_a_caption_is_one_text_with_its_phrases(build: Build) -> None:
    dataset = build(test_mode=True)
    assert len(dataset) == 2  # the narrative that grounds nothing is left out
    item = dataset[0]
    sample = item["data_samples"]
    assert [text.text for text in sample.continuations] == [make_narratives()[1]["caption"]]
    assert sample.phrases == ["Two Dogs", "grass", "one dog", "sky with grass"]
    assert sample.expression_ids == ["1:0", "1:1", "1:2", "1:3"]
    assert sample.image_id == 11 and sample.original_size == (6, 12)
    assert item["inputs"].image.shape == (6, 12, 3)
    assert dataset[1]["data_samples"].expression_ids == ["2:0"]


def test_masks_are_unions_of_segments(build: Build) -> None:
    masks = build()[0]["data_samples"].gt_masks
    assert masks.dtype == torch.bool and masks.shape == (4, 6, 12)
    columns = [mask[1:].all(0).nonzero().flatten().tolist() for mask in masks]
    assert columns == [[*range(6)], [*range(6, 10)], [3, 4, 5], [*range(6, 12)]]
    assert not masks[:, 0].any()


def test_groups_are_those_of_the_data_sets_own_script(build: Build) -> None:
    """The last listed segment tells things from stuff, the field ``plural`` the number."""
    dataset = build()
    assert dataset[0]["data_samples"].expression_groups == [
        *(("things", "plurals"), ("stuff", "singulars")),
        *(("things", "singulars"), ("stuff", "plurals")),
    ]
    assert dataset[1]["data_samples"].expression_groups == [("things", "plurals")]


def test_isolated_phrases_are_texts_of_their_own(build: Build) -> None:
    sample, joined = build(isolated=True)[0]["data_samples"], build()[0]["data_samples"]
    assert sample.continuations == [Continuation(phrase) for phrase in joined.phrases]
    assert torch.equal(sample.gt_masks, joined.gt_masks)
    assert sample.expression_ids == joined.expression_ids


def test_phrases_are_drawn_anew_each_epoch_and_reproducibly(build: Build) -> None:
    dataset, other = build(max_phrases=2, seed=3), build(max_phrases=2, seed=3)
    whole = {
        name: (phrase, mask.tolist(), groups)
        for name, phrase, mask, groups in zip(*list_rows(build()[0]["data_samples"]))
    }
    drawn = []
    for epoch in range(12):
        dataset.set_epoch(epoch)
        other.set_epoch(epoch)
        sample = dataset[0]["data_samples"]
        drawn.append(tuple(sample.expression_ids))
        assert tuple(other[0]["data_samples"].expression_ids) == drawn[-1]
        assert list(drawn[-1]) == sorted(drawn[-1]) and len(drawn[-1]) == 2
        assert sample.continuations[0].text == make_narratives()[1]["caption"]
        for name, phrase, mask, groups in zip(*list_rows(sample)):
            assert whole[name] == (phrase, mask.tolist(), groups)
    assert len(set(drawn)) > 3


def list_rows(sample: Any) -> tuple[Any, ...]:
    return sample.expression_ids, sample.phrases, sample.gt_masks, sample.expression_groups


def test_a_real_image_with_its_real_segments(data_dir: Path, tmp_path: Path) -> None:
    """val2017 image 142238: people (one of them a crowd), a sports ball and stuff."""
    real = data_dir / "panoptic"
    infos = json.loads((real / "panoptic_examples.json").read_text())["annotations"][0]
    by_category: dict[int, list[int]] = {}
    for segment in infos["segments_info"]:
        by_category.setdefault(segment["category_id"], []).append(segment["id"])
    people, ball, trees = (tuple(by_category[key]) for key in (1, 37, 184))
    narrative = {
        "image_id": "142238",
        "caption": "In this image I can see people playing with a ball, and trees.",
        "segments": [
            *(utter("in this image i can see"), utter("people", people, True)),
            *(utter("playing with a"), utter("ball", ball), utter(", and"), utter("trees", trees)),
        ],
    }
    (tmp_path / "png.json").write_text(json.dumps([narrative]))
    for name in ("000000142238.jpg", "000000142238_panoptic.png"):
        target = tmp_path / name.replace("_panoptic", "")
        target.write_bytes((real / name).read_bytes())
    dataset = PanopticNarrativeDataset(
        data_root=str(tmp_path),
        ann_file="png.json",
        panoptic_json=str(real / "panoptic_examples.json"),
        data_prefix={"img_path": "", "panoptic_path": ""},
        image_processor={"type": ToyImageProcessor},
    )
    sample = dataset[0]["data_samples"]
    assert sample.phrases == ["people", "ball", "trees"]
    assert [groups[0] for groups in sample.expression_groups] == ["things", "things", "stuff"]
    with Image.open(tmp_path / "000000142238.png") as picture:
        ids = rgb_to_id(np.asarray(picture))
    for mask, segment_ids in zip(sample.gt_masks.numpy(), (people, ball, trees)):
        areas = {segment["id"]: segment["area"] for segment in infos["segments_info"]}
        assert mask.sum() == sum(areas[key] for key in segment_ids)
        assert set(np.unique(ids[mask])) == set(segment_ids)


def test_what_is_wrong_at_load_names_the_record(build: Build, folder: Path) -> None:
    good = make_narratives()
    with pytest.raises(
        BadRecordError, match=r"narrative 1 \(image_id 13\), phrase 0 \('dog and sky"
    ):
        build([good[0], good[2] | {"image_id": "13"}])
    foreign = good[2] | {"segments": [utter("dog and sky", (65793, 4))]}
    with pytest.raises(BadRecordError, match=r"segment 4 is not among its image's .*bad_records="):
        build([foreign])
    with pytest.raises(BadRecordError, match=r"'dog and sky'\): its words are not in the caption"):
        build([good[2] | {"caption": "Cat and sky."}])
    with pytest.raises(ValueError, match="narrative 0 has no field 'segments'"):
        build([{"image_id": "11", "caption": "Dog"}])
    (folder / "annotations/other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other.json holds a dict, not a list of narratives"):
        build(ann_file="annotations/other.json")


def test_wrong_arguments_are_told(build: Build) -> None:
    with pytest.raises(FileNotFoundError, match=r"ann_file .*no.json does not exist: check ann"):
        build(ann_file="no.json")
    with pytest.raises(FileNotFoundError, match=r"panoptic_json .*no.json does not exist"):
        build(panoptic_json="no.json")
    with pytest.raises(ValueError, match="data_prefix has no panoptic_path: give the folders"):
        build(data_prefix={"img_path": "val2017"})
    with pytest.raises(ValueError, match=r"image_processor .* or pipeline, not both"):
        build(pipeline=[])


def test_unusable_phrases_are_skipped_one_by_one(build: Build) -> None:
    narratives = make_narratives()
    narratives[1]["segments"][2]["segment_ids"] = ["4"]
    dataset = build(narratives, bad_records="skip", test_mode=True)
    assert dataset[0]["data_samples"].expression_ids == ["1:0", "1:2", "1:3"]
    (skipped,) = dataset.skipped
    assert isinstance(skipped, SkippedExpression)
    assert (skipped.expression_id, skipped.image_id) == ("1:1", 11)
    assert "narrative 1 (image_id 11), phrase 1 ('grass'): segment 4" in skipped.reason


def test_a_missing_panoptic_png_is_skipped_and_told(build: Build, folder: Path) -> None:
    (folder / "annotations/panoptic_val2017/000000000011.png").unlink()
    with pytest.raises(MissingFileError, match=r"000000000011.png \(image_id 11\) does not exist"):
        build()[0]
    item = build(bad_records="skip", test_mode=True)[0]
    sample = item["data_samples"]
    assert item["inputs"] is None and "gt_masks" not in sample
    assert sample.expression_ids == ["1:0", "1:1", "1:2", "1:3"]
    assert "panoptic_val2017/000000000011.png" in sample.skipped
    assert build(bad_records="skip")[0]["data_samples"].image_id == 12


def test_training_leaves_out_phrases_without_a_true_pixel(build: Build, folder: Path) -> None:
    path = folder / "annotations/panoptic_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"].append({"id": 99, "category_id": 1})
    path.write_text(json.dumps(content))
    narratives = make_narratives()
    narratives[1]["segments"][2]["segment_ids"] = ["99"]
    scored, trained = (build(narratives, test_mode=mode)[0] for mode in (True, False))
    assert [bool(mask.any()) for mask in scored["data_samples"].gt_masks] == [
        True,
        False,
        True,
        True,
    ]
    assert trained["data_samples"].expression_ids == ["1:0", "1:2", "1:3"]
    assert trained["data_samples"].phrases == ["Two Dogs", "one dog", "sky with grass"]
    assert len(trained["data_samples"].expression_groups) == 3


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes")
    write_dataset(path, 6, seed=11)
    return path


def test_it_mixes_with_refcoco_and_trains(scenes: Path) -> None:
    """The published mixture: both data sets in one loader, told the epoch, losses on all of it."""
    init_default_scope("flmm")
    tiny = load_config(CONFIGS / "tiny/tiny_unet_sam_shapes.py")
    captions = load_config(CONFIGS / "tiny/tiny_png_shapes.py").test_dataloader.dataset
    captions.update(data_root=str(scenes), test_mode=False, max_phrases=2)
    referring = tiny.train_dataloader.dataset
    referring.update(data_root=str(scenes), split="val")
    mixture = ConcatDataset([DATASETS.build(referring), DATASETS.build(captions)])
    assert [type(item) for item in mixture.datasets] == [
        RefCocoGroundingDataset,
        PanopticNarrativeDataset,
    ]
    EpochSampler(mixture).set_epoch(4)
    assert [int(item._epoch) for item in mixture.datasets] == [4, 4]
    items = [mixture[0], mixture[len(mixture) - 1]]
    model = MODELS.build(tiny.model)
    losses = model(
        [item["inputs"] for item in items], [item["data_samples"] for item in items], mode="loss"
    )
    total = sum(value for name, value in losses.items() if "loss" in name)
    total.backward()
    assert torch.isfinite(total)
    assert model.mask_head.conv_seg.weight.grad.abs().sum() > 0
