"""Boxes in replies: every family's own format, and everything that may happen to it."""

import functools
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from flmm.readers.boxes import BoxFormat, read_boxes
from flmm.readers.families import find_family
from flmm.readers.image_processor import ImageProcessorWrapper
from flmm.records import Grid, ImageInput
from tests.small_models import FAMILY_FOLDERS, build_small_config, load_processor

# (h, w) that the model saw, in tokens of 28 px: 420 x 560 px; the picture; scale 5/7 on both axes
TOKENS, ORIGINAL = (15, 20), (300, 400)
PIXELS, THOUSANDTHS, SHARES = BoxFormat("", token_px=28), BoxFormat(""), BoxFormat("", side=1.0)
WANTED = pytest.approx([40.0, 60.0, 200.0, 180.0], abs=1e-4)


def show(box=(0.0, 0.0, 400.0, 300.0)):
    """A picture of which the model saw a box."""
    grids = [Grid(torch.zeros(TOKENS, dtype=torch.int64), box)]
    blank = torch.zeros(0)
    return ImageInput(blank, {}, blank.long(), grids, np.zeros((*ORIGINAL, 3), np.uint8))


def read(reply, box_format=PIXELS, image=None):
    """The boxes, or the problem."""
    boxes, problem = read_boxes(reply, box_format, image or show())
    assert boxes.shape[1:] == (4,) and (problem is None or len(boxes) == 0)
    return problem or boxes.tolist()


@functools.cache
def build_family(data_dir, name):
    config = build_small_config(data_dir, name)
    return find_family(config)(config, load_processor(data_dir, name))


@pytest.mark.parametrize(
    ("name", "question"),
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
            "qwen3_vl_moe",
            'Locate every object that matches the description "the {left} dog" in the image. '
            "Report bbox coordinates in JSON format.",
        ),
        (
            "glm4v",
            "Help me to locate the {left} dog in the image and give me its bounding boxes.",
        ),
        ("paligemma2", "detect the {left} dog"),
    ],
)
def test_the_question_is_the_familys_own(data_dir, name, question):
    assert build_family(data_dir, name).box_format.ask(" the {left} dog ") == question


# A box of 10 % to 50 % of the width and 20 % to 60 % of the height, as families say it.
@pytest.mark.parametrize(
    ("box_format", "reply"),
    [
        (THOUSANDTHS, "<|box_start|>(100,200),(500,600)<|box_end|>"),
        (
            THOUSANDTHS,
            "<|object_ref_start|>dog (1,2),(3,4)<|object_ref_end|><|box_start|>(100, 200), "
            "(500, 600)<|box_end|>",
        ),
        (THOUSANDTHS, "(100,200),(500,600)"),
        (PIXELS, '```json\n[\n\t{"bbox_2d": [56, 84, 280, 252], "label": "dog"}\n]\n```'),
        (PIXELS, '{"bbox_2d": [56.0, 84.0, 280.0, 252.0]}'),
        (THOUSANDTHS, '[{"label": "[1, 2, 3, 4] \\" dog", "bbox_2d": [100, 200, 500, 600]}]'),
        (THOUSANDTHS, "<ref>dog</ref><box>[[100, 200, 500, 600]]</box>"),
        (SHARES, "[0.1, 0.2, 0.50, .6]"),
    ],
)
def test_each_familys_reply_is_read_in_its_own_frame(box_format, reply):
    assert read(reply, box_format) == [WANTED]


@pytest.mark.parametrize(
    "reply",
    [
        "[56, 84, 280, 252]",
        "[[56, 84], [280, 252]]",
        "The dog is at [56,84,280,252], on the sofa.",
        'Sure! ```json\n{"bbox_2d": [56, 84, 280, 252]}\n``` Anything else?',
        '[{"bbox_2d": [56, 84, 280, 252], "label": "the dog on',
        '[{"bbox_2d": [56, 84, 280, 252]}, {"bbox_2d": [1, 2, 3',
        '{"point_2d": [7, 8], "bbox_2d": [56, 84, 280, 252]}',
        "[280, 252, 56, 84]",
        "[280, 84, 56, 252]",
        "[56, 84, 280, 252] [56, 84, 280, 252] [280, 252, 56, 84]",
        "[600, 84, 700, 252] [56, 84, 280, 252] [1, 1, 1, 1]",
    ],
)
def test_a_whole_box_is_read_once_from_whatever_surrounds_it(reply):
    assert read(reply) == [WANTED]


@pytest.mark.parametrize(
    ("box_format", "reply"),
    [
        (
            PIXELS,
            '[{"bbox_2d": [56, 84, 280, 252], "label": "a"}, {"bbox_2d": [0, 0, 14, 7], "label": '
            '"b"}, {"bbox_2d": [56, 84, 280, 252]}]',
        ),
        (PIXELS, "[[56, 84, 280, 252], [0, 0, 14, 7]]"),
        (
            THOUSANDTHS,
            "<|box_start|>(100,200),(500,600)<|box_end|><|box_start|>(0,0),(25,16.6667)<|box_end|>",
        ),
        (THOUSANDTHS, "(100,200),(500,600)(0,0),(25,16.66667)"),
        (THOUSANDTHS, "<box>[[100, 200, 500, 600], [0, 0, 25, 16.66667]]</box>"),
    ],
)
def test_all_boxes_are_read_in_order(box_format, reply):
    assert read(reply, box_format) == [WANTED, pytest.approx([0, 0, 10, 5], abs=1e-4)]


GLM = BoxFormat("", marks=("<|begin_of_box|>", "<|end_of_box|>"))
LOCATIONS = BoxFormat("", side=1024.0, location_tokens=True)
# Replies of the form that their makers published, and the corners that they name of so many a side.
PUBLISHED = {
    # github.com/QwenLM/Qwen-VL, TUTORIAL.md, read as its eval_mm/evaluate_grounding.py does
    "qwen_vl": (
        BoxFormat("", side=999.0),
        "<ref> Two apples</ref><box>(302,257),(582,671)</box><box>(603,252),(878,642)</box> and"
        "<ref> a bowl</ref><box>(2,269),(304,674)</box>",
        [[302, 257, 582, 671], [603, 252, 878, 642], [2, 269, 304, 674]],
        999,
    ),
    # github.com/THUDM/CogVLM, README.md; several boxes as utils/utils/grounding_parser.py splits
    "cogvlm": (
        THOUSANDTHS,
        "[combobox] Search -> TYPE: CogVLM at the box [[212,498,787,564]]",
        [[212, 498, 787, 564]],
        1000,
    ),
    "cogvlm_several": (
        THOUSANDTHS,
        "[[086,540,400,760;212,498,787,564;000,000,999,012]]",
        [[86, 540, 400, 760], [212, 498, 787, 564], [0, 0, 999, 12]],
        1000,
    ),
    # github.com/zai-org/GLM-V/issues/118 (thoughts); README.md, "Grounding" (marks and brackets)
    "glm": (
        GLM,
        "<think> 第一只：斑纹猫。bounding box大概是[[110,147,193,823]]。</think><answer>"
        "<|begin_of_box|>[[190,330,313,852], [299,346,427,901]]<|end_of_box|></answer>",
        [[190, 330, 313, 852], [299, 346, 427, 901]],
        1000,
    ),
    "glm_other_brackets": (
        GLM,
        "<|begin_of_box|><190,330,313,852><|end_of_box|> <|begin_of_box|>(299,346,427,901)",
        [[190, 330, 313, 852], [299, 346, 427, 901]],
        1000,
    ),
    # github.com/roboflow/supervision, Detections.from_vlm: top, left, bottom, right
    "paligemma": (
        LOCATIONS,
        "<loc0256><loc0128><loc0768><loc0512> cat ; <loc0000><loc0000><loc1023><loc0010> dog<eos>",
        [[128, 256, 512, 768], [0, 0, 10, 1023]],
        1024,
    ),
    # huggingface.co/AskUI/PTA-1/discussions/2, by DeepSeek-VL2's makers: x1 / 999 * W
    "deepseek_vl2": (
        BoxFormat("", side=999.0),
        "<|ref|>the giraffe (1,2,3,4)<|/ref|><|det|>[[580, 270, 999, 900], [0, 12, 99, 340]]"
        "<|/det|><｜end▁of▁sentence｜>",
        [[580, 270, 999, 900], [0, 12, 99, 340]],
        999,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_replies_are_read(name):
    box_format, reply, corners, side = PUBLISHED[name]
    height, width = ORIGINAL
    wanted = np.array(corners) / side * [width, height, width, height]
    np.testing.assert_allclose(read(reply, box_format), wanted, atol=1e-3)


def test_thoughts_without_an_answer_are_no_boxes():
    problem = read("<think>perhaps at [[110,147,193,823]], or", GLM)
    assert problem.startswith("the reply holds no readable box: '<think>perhaps")
    assert read("<think>[[1,2,3,4]]?</think><|begin_of_box|>[]<|end_of_box|>", GLM) == []


@pytest.mark.parametrize("reply", ["<loc0256><loc0128><loc0768>", "[256, 128, 768, 512]", "cat"])
def test_fewer_than_four_location_tokens_are_no_box(reply):
    assert read(reply, LOCATIONS).startswith("the reply holds no readable box")


def test_floats_are_not_rounded():
    assert read("[56.7, 84, 280.35, 252]")[0][0] == pytest.approx(56.7 * 400 / 560, abs=1e-4)


def test_what_reaches_outside_is_cut_off():
    assert read("[-50, -1.5, 9999, 252]") == [pytest.approx([0, 0, 400, 180], abs=1e-4)]
    assert read("(0,0),(1000,1000)", THOUSANDTHS) == [[0, 0, 400, 300]]
    assert read("[0, 0, " + "9" * 400 + ", 252]") == [pytest.approx([0, 0, 400, 180], abs=1e-4)]


def test_padding_that_the_model_saw_is_no_part_of_the_picture():
    """The picture of 400 x 300 in the middle of a square of 400."""
    padded = show((0.0, -50.0, 400.0, 350.0))
    assert read("[0.1, 0.275, 0.5, 0.575]", SHARES, padded) == [WANTED]
    assert read("[0, 0, 1, 0.1]", SHARES, padded).startswith("the box covers nothing")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "holds no readable box: ''"),
        ("There is no\n dog.", r"holds no readable box: 'There is no dog\.'"),
        ('[{"bbox_2d": [56, 84, 280, 25', "holds no readable box"),
        ('{"point_2d": [56, 84]}', "holds no readable box"),
        ('{"label": "[1, 2, 3, 4]"}', "holds no readable box"),
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


@pytest.mark.parametrize("reply", ["[]", "```json\n[ ]\n```", "[]<|im_end|>"])
def test_an_empty_list_is_an_answer(reply):
    assert read(reply) == []


@pytest.mark.parametrize("name", ["llava_next", "idefics3"])
def test_an_unknown_format_is_refused(data_dir, name):
    with pytest.raises(ValueError, match=f"how a '{name}' model names boxes is not known: point"):
        _ = build_family(data_dir, name).box_format


@pytest.mark.parametrize("name", [*FAMILY_FOLDERS, "llava_padded", "llava_cropped", "internvl"])
def test_a_persons_box_on_a_photograph_survives_the_round_trip(data_dir, name):
    """Annotated in pixels of the photograph, said in the model's frame, read back."""
    path = data_dir / "coco" / "000000000785.jpg"
    annotations = json.loads((data_dir / "coco" / "instances_people.json").read_text())
    x, y, width, height = next(
        item["bbox"] for item in annotations["annotations"] if item["image_id"] == 785
    )
    wanted = np.array([x, y, x + width, y + height])
    family = build_family(data_dir, name)
    with Image.open(path) as picture:
        size, image = np.array(picture.size), ImageProcessorWrapper(family).encode(picture)
        patches = family.processor.image_processor(images=[picture], return_tensors="pt")
    corners, unit = wanted.reshape(2, 2), 1
    if name == "qwen2_5_vl":  # what the processor itself resized it to
        patch = family.processor.image_processor.patch_size
        _, rows, columns = patches["image_grid_thw"][0].tolist()
        said = corners * (np.array([columns, rows]) * patch / size)
    elif name == "llava_padded":  # to a square, the picture in its middle
        said, unit = (corners + (size.max() - size) // 2) / size.max(), 0.001
    elif name == "llava_cropped":  # to the square in its middle
        said, unit = (corners - (size - size.min()) / 2) / size.min(), 0.001
        wanted = corners.clip((size - size.min()) / 2, (size + size.min()) / 2).flatten()
    else:
        said = corners / size * 1000
    said = (said / unit).round() * unit
    numbers = ", ".join(f"{value:g}" for value in said.flatten())
    boxes, problem = read_boxes(f'[{{"bbox_2d": [{numbers}]}}]', family.box_format, image)
    assert problem is None and len(boxes) == 1
    assert np.abs(boxes[0].numpy() - wanted).max() <= 0.0015 * size.max()
