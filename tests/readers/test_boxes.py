"""Boxes in replies: every family's own format, and everything that may happen to it."""

import json
import re

import pytest
import torch
from PIL import Image

from flmm.readers import QwenImageProcessorWrapper
from flmm.readers.boxes import BOX_FORMATS, build_box_question, parse_box
from flmm.readers.families.qwen import Qwen
from tests.small_models import load_processor

INPUT, ORIGINAL = (420, 560), (300, 400)  # (h, w); scale 5/7 on both axes


def read(reply, model_type="qwen2_5_vl", input_size=INPUT, original_size=ORIGINAL):
    box, problem = parse_box(reply, model_type, input_size, original_size)
    assert (box is None) != (problem is None)
    return problem if box is None else box.tolist()


def test_every_supported_family_has_a_format():
    assert set(BOX_FORMATS) == set(Qwen.model_types)


@pytest.mark.parametrize(
    ("model_type", "question"),
    [
        (
            "qwen2_vl",
            "Please provide the bounding box coordinate of the region this sentence describes: "
            "the {left} dog",
        ),
        (
            "qwen2_5_vl",
            "Locate the {left} dog in this image and output the bbox coordinates in JSON format.",
        ),
        (
            "qwen3_vl",
            'Locate every object that matches the description "the {left} dog" in the image. '
            "Report bbox coordinates in JSON format.",
        ),
    ],
)
def test_the_question_is_the_familys_own(model_type, question):
    assert build_box_question(model_type, " the {left} dog ") == question


# A box of 10 % to 50 % of the width and 20 % to 60 % of the height, as each family says it.
@pytest.mark.parametrize(
    ("model_type", "reply"),
    [
        ("qwen2_vl", "<|box_start|>(100,200),(500,600)<|box_end|>"),
        (
            "qwen2_vl",
            "<|object_ref_start|>dog (1)<|object_ref_end|><|box_start|>(100, 200), (500, 600)"
            "<|box_end|>",
        ),
        ("qwen2_vl", "(100,200),(500,600)"),
        ("qwen2_5_vl", '```json\n[\n\t{"bbox_2d": [56, 84, 280, 252], "label": "dog"}\n]\n```'),
        ("qwen2_5_vl", '{"bbox_2d": [56.0, 84.0, 280.0, 252.0]}'),
        ("qwen3_vl", '```json\n[\n\t{"bbox_2d": [100, 200, 500, 600], "label": "dog"}\n]\n```'),
        ("qwen3_vl_moe", '[{"label": "dog", "bbox_2d": [100, 200, 500, 600]}]'),
    ],
)
def test_each_familys_reply_is_read_in_its_own_frame(model_type, reply):
    assert read(reply, model_type) == pytest.approx([40.0, 60.0, 200.0, 180.0], abs=1e-4)


@pytest.mark.parametrize(
    "reply",
    [
        "[56, 84, 280, 252]",
        "[[56, 84], [280, 252]]",
        "The dog is at [56,84,280,252], on the sofa.",
        'Sure! ```json\n{"bbox_2d": [56, 84, 280, 252]}\n``` Anything else?',
        '[{"bbox_2d": [56, 84, 280, 252], "label": "a"}, {"bbox_2d": [0, 0, 9, 9]}]',
        '[{"bbox_2d": [56, 84, 280, 252], "label": "the dog on',
        '[{"bbox_2d": [56, 84, 280, 252]}, {"bbox_2d": [1, 2, 3',
        '{"point_2d": [7, 8], "bbox_2d": [56, 84, 280, 252]}',
        "[280, 252, 56, 84]",
        "[280, 84, 56, 252]",
    ],
)
def test_the_first_whole_box_is_read_from_whatever_surrounds_it(reply):
    assert read(reply) == pytest.approx([40.0, 60.0, 200.0, 180.0], abs=1e-4)


def test_floats_are_not_rounded():
    assert read("[56.7, 84, 280.35, 252]")[0] == pytest.approx(56.7 * 400 / 560, abs=1e-4)


def test_what_reaches_outside_is_cut_off():
    assert read("[-50, -1.5, 9999, 252]") == pytest.approx([0, 0, 400, 180], abs=1e-4)
    assert read("(0,0),(1000,1000)", "qwen2_vl") == [0, 0, 400, 300]
    assert read("[0, 0, " + "9" * 400 + ", 252]") == pytest.approx([0, 0, 400, 180], abs=1e-4)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "holds no readable box: ''"),
        ("There is no\n dog.", r"holds no readable box: 'There is no dog\.'"),
        ('[{"bbox_2d": [56, 84, 280, 25', "holds no readable box"),
        ('{"point_2d": [56, 84]}', "holds no readable box"),
        ("[1, 2, 3, 4, 5]", "holds no readable box"),
        ("[a, b, c, d]", "holds no readable box"),
        ("word " * 100, "holds no readable box: '(word )+"),
        ("[56, 84, 56, 252]", r"covers nothing of the picture: '\[56, 84, 56, 252\]'"),
        ("[600, 84, 700, 252]", "covers nothing of the picture"),
    ],
)
def test_a_reply_without_a_box_gives_the_reason(reply, reason):
    problem = read(reply)
    assert isinstance(problem, str)
    assert len(problem) < 150
    assert re.search(reason, problem)


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="how a 'llava' model names boxes is not known: use"):
        build_box_question("llava", "dog")
    with pytest.raises(ValueError, match="how a 'llava' model names boxes is not known"):
        parse_box("[1, 2, 3, 4]", "llava", INPUT, ORIGINAL)


@pytest.mark.parametrize("model_type", sorted(BOX_FORMATS))
def test_a_persons_box_on_a_photograph_survives_the_round_trip(data_dir, model_type):
    """Annotated in pixels of the photograph, said in the model's frame, read back."""
    path = data_dir / "coco" / "000000000785.jpg"
    annotations = json.loads((data_dir / "coco" / "instances_people.json").read_text())
    x, y, width, height = next(
        item["bbox"] for item in annotations["annotations"] if item["image_id"] == 785
    )
    wanted = torch.tensor([x, y, x + width, y + height])
    processor = load_processor(data_dir, model_type)
    with Image.open(path) as picture:
        original = (picture.height, picture.width)
        encoded = QwenImageProcessorWrapper(processor).encode(picture)
        patches = processor.image_processor(images=[picture], return_tensors="pt")
    patch = processor.image_processor.patch_size
    shown = [int(side) * patch for side in patches["image_grid_thw"][0][1:]]  # (H', W')
    assert tuple(shown) == tuple(encoded.pixel_values.shape[1:])
    assert tuple(shown) != original
    if model_type == "qwen2_5_vl":
        scale = torch.tensor([shown[1] / original[1], shown[0] / original[0]] * 2)
    else:
        scale = torch.tensor([1000 / original[1], 1000 / original[0]] * 2)
    said = [int(value) for value in (wanted * scale).round()]
    reply = f'```json\n[{{"bbox_2d": {said}, "label": "person"}}]\n```'
    if model_type == "qwen2_vl":
        reply = f"<|box_start|>({said[0]},{said[1]}),({said[2]},{said[3]})<|box_end|>"
    box, problem = parse_box(reply, model_type, tuple(shown), original)
    assert problem is None
    assert (box - wanted).abs().max() <= 0.51 / scale.min()
