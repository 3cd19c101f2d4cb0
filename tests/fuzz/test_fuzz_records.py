"""Data sets with changed records: refused, or every expression is right or named as skipped."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from flmm.apps.visual_cot.questions import read_question_files
from flmm.data.png import PanopticNarrativeDataset
from flmm.data.refcoco import RefCocoGroundingDataset
from tests.data.conftest import SIZES, make_annotations, make_refs, write_refcoco
from tests.data.test_png import SEGMENTS, make_narratives, write_png
from tests.fuzz.harness import Fuzz
from tests.fuzz.mutations import mutate
from tests.toy_image_processor import ToyImageProcessor

pytestmark = pytest.mark.fuzz

REFUSALS = (ValueError, FileNotFoundError)


@pytest.fixture(scope="module")
def refcoco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "refcoco"
    return write_refcoco(folder, make_refs(), make_annotations())


def make_refer_case(rng: random.Random) -> tuple[Any, Any]:
    images = [
        {"id": key, "file_name": f"{key}.png", "height": height, "width": width}
        for key, (height, width) in SIZES.items()
    ]
    content = {"images": images, "annotations": make_annotations(), "categories": []}
    changes = rng.choice((1, 1, 2, 3))
    in_refs = rng.randrange(changes + 1)
    return mutate(make_refs(), rng, in_refs), mutate(content, rng, changes - in_refs)


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A sound segmentation's mask, by pycocotools."""
    rle = segmentation
    if not segmentation:
        return np.zeros((height, width), dtype=bool)
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(rle).astype(bool)


def test_refer_records(fuzz: Fuzz, refcoco: Path) -> None:
    sound = {item["id"]: item["segmentation"] for item in make_annotations()}

    def build(bad_records: str) -> RefCocoGroundingDataset:
        return RefCocoGroundingDataset(
            data_root=str(refcoco),
            data_prefix={"img_path": "images/"},
            ann_file="instances.json",
            split_file="refs(unc).p",
            image_processor={"type": ToyImageProcessor},
            text_mode="all",
            bad_records=bad_records,
            test_mode=True,
            serialize_data=False,  # it would collect garbage in all of this process
        )

    def judge(case: tuple[Any, Any]) -> None:
        refs, content = case
        (refcoco / "instances.json").write_text(json.dumps(content))
        (refcoco / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
        try:
            dataset = build("skip")
        except REFUSALS as error:
            assert len(str(error)) < 8000
            with pytest.raises(REFUSALS):
                build("stop")
            return
        used, lost = set(), {item.expression_id for item in dataset.skipped}
        for item in dataset:
            sample = item["data_samples"]
            if item["inputs"] is None:
                assert sample.skipped
                lost.update(sample.expression_ids)
                continue
            masks = sample.gt_masks.numpy()
            for ref_id, key, phrase, mask in zip(
                sample.ref_ids, sample.expression_ids, sample.phrases, masks, strict=True
            ):
                used.add(key)
                check_expression(refs, content, (ref_id, key, phrase), mask)
        wanted = {
            sentence["sent_id"]
            for ref in refs
            if ref["split"] == "train"
            for sentence in ref["sentences"]
        }
        assert wanted == used | lost

    def check_expression(
        refs: Any, content: Any, found: tuple[Any, Any, str], mask: np.ndarray
    ) -> None:
        ref_id, key, phrase = found
        candidates = [ref for ref in refs if ref["ref_id"] == ref_id]
        texts = [
            item["raw"] for ref in candidates for item in ref["sentences"] if item["sent_id"] == key
        ]
        assert phrase in [text.strip().lower() for text in texts if isinstance(text, str)]
        for annotation in content["annotations"]:
            if annotation.get("id") == candidates[0]["ann_id"] and annotation[
                "segmentation"
            ] == sound.get(annotation["id"]):
                assert np.array_equal(mask, decode(annotation["segmentation"], *mask.shape))

    fuzz.check_in_children(make_refer_case, judge)


@pytest.fixture(scope="module")
def narratives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_png(tmp_path_factory.mktemp("fuzz") / "png", make_narratives())


def test_narratives(fuzz: Fuzz, narratives: Path) -> None:
    files = [
        narratives / "annotations" / name
        for name in ("png_coco_val2017.json", "panoptic_val2017.json")
    ]
    sound = [json.loads(path.read_bytes()) for path in files]

    def make(rng: random.Random) -> list[Any]:
        changes = rng.choice((1, 1, 2, 3))
        first = rng.randrange(changes + 1)
        return [mutate(sound[0], rng, first), mutate(sound[1], rng, changes - first)]

    def judge(case: list[Any]) -> None:
        for path, content in zip(files, case):
            path.write_text(json.dumps(content))
        try:
            dataset = PanopticNarrativeDataset(
                data_root=str(narratives),
                ann_file="annotations/png_coco_val2017.json",
                panoptic_json="annotations/panoptic_val2017.json",
                data_prefix={
                    "img_path": "val2017/",
                    "panoptic_path": "annotations/panoptic_val2017/",
                },
                image_processor={"type": ToyImageProcessor},
                bad_records="skip",
                test_mode=True,
                serialize_data=False,
            )
        except REFUSALS as error:
            assert len(str(error)) < 8000
            return
        for item in dataset:
            sample = item["data_samples"]
            if item["inputs"] is None:
                assert sample.skipped
                continue
            for key, phrase, mask in zip(
                sample.expression_ids, sample.phrases, sample.gt_masks.numpy(), strict=True
            ):
                narrative, position = map(int, key.split(":"))
                segments = [item for item in case[0][narrative]["segments"] if item["segment_ids"]]
                segment = segments[position]
                assert phrase.lower().split() == str(segment["utterance"]).lower().split()
                wanted = np.zeros((6, 12), dtype=bool)
                for segment_id in map(int, segment["segment_ids"]):
                    if segment_id in SEGMENTS:
                        wanted[1:, slice(*SEGMENTS[segment_id][1:])] = True
                assert np.array_equal(mask, wanted)

    fuzz.check_in_children(make, judge)


def test_questions(fuzz: Fuzz, tmp_path: Path) -> None:
    sound = [
        {
            "question_id": number,
            "image": ["a.jpg", "a.jpg###[1, 2, 30, 40]"],
            "conversations": [
                {"from": "human", "value": "<image>\nWhat?"},
                {"from": "gpt", "value": "A dog."},
            ],
        }
        for number in range(2)
    ]
    path = tmp_path / "questions.json"

    def judge(records: Any) -> None:
        path.write_text(json.dumps(records))
        (found,) = read_question_files(path)
        assert len(found) == len(records)
        assert sorted([*found.questions, *found.bad]) == list(range(len(records)))
        for place, question in found.questions.items():
            assert question.answer == records[place]["conversations"][-1]["value"].strip()
        assert all(len(reason) < 5000 for reason in found.bad.values())

    fuzz.check_in_children(lambda rng: mutate(sound, rng, rng.choice((1, 2, 3))), judge)
