"""The box baseline: one reading, the family's own boxes, segment-anything's own masks."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor

from flmm.box_baseline import BoxBaseline
from flmm.masks import SAMRefiner
from flmm.readers import FrozenQwen
from flmm.readers.boxes import build_box_question, parse_box
from flmm.records import Continuation, as_continuations
from flmm.registry import MODELS
from tests.small_models import FAMILY_FOLDERS, build_small_model, load_processor

PHRASES = ["the red circle", "the small blue square", "the red circle"]


@pytest.fixture(scope="module", params=sorted(FAMILY_FOLDERS))
def baseline(request, data_dir):
    reader = FrozenQwen.from_model(
        build_small_model(data_dir, request.param), load_processor(data_dir, request.param)
    )
    torch.manual_seed(0)
    return BoxBaseline(reader, SAMRefiner("tiny"), max_new_tokens=6).eval()


@pytest.fixture(scope="module")
def photograph(data_dir):
    with Image.open(data_dir / "coco" / "000000000785.jpg") as picture:
        return picture.convert("RGB").copy()


class Dictation:
    """Makes a reader's language head say given texts, one per question, whatever it thinks.

    The reader still runs: only the logits that come out are replaced. Rows of a pass are told
    apart by how many questions are still being answered, so that all texts must be of one length.
    """

    def __init__(self, reader, replies):
        tokens = [reader.tokenizer(text, add_special_tokens=False)["input_ids"] for text in replies]
        assert len({len(ids) for ids in tokens}) == 1
        self.columns = [*zip(*tokens)]
        self.end = reader.tokenizer.eos_token_id
        self.step = 0
        self.head = reader.model.get_output_embeddings()

    def __enter__(self):
        self.hook = self.head.register_forward_hook(self.dictate)
        return self

    def __exit__(self, *_):
        self.hook.remove()

    def dictate(self, module, inputs, logits):
        spoken = torch.full_like(logits, -1e4)
        over = self.step >= len(self.columns)
        column = [self.end] * len(logits) if over else self.columns[self.step]
        spoken[torch.arange(len(logits)), torch.tensor(column)] = 1e4
        self.step += 1
        return spoken


def test_random_replies_are_problems_and_empty_masks(baseline, photograph):
    image = baseline.vlm.image_processor.encode(photograph)
    (prediction,) = baseline.predict_phrases(image, [as_continuations(PHRASES)])
    assert prediction.masks.shape == (3, *image.original_size)
    assert prediction.masks.dtype == bool and not prediction.masks.any()
    assert prediction.coarse_masks is None
    assert prediction.scores.tolist() == [0, 0, 0]
    assert all("holds no readable box" in item.problem for item in prediction)
    assert prediction[0].problem == prediction[2].problem


def test_a_named_box_becomes_segment_anythings_mask(baseline, photograph, data_dir):
    """A person's box, said in the model's own frame, prompts SAM in the photograph's."""
    annotations = json.loads((data_dir / "coco" / "instances_people.json").read_text())
    x, y, width, height = next(
        item["bbox"] for item in annotations["annotations"] if item["image_id"] == 785
    )
    image = baseline.vlm.image_processor.encode(photograph)
    (rows, columns), (tall, wide) = image.original_size, image.pixel_values.shape[1:]
    family = baseline.model_type
    x_scale, y_scale = (
        (wide / columns, tall / rows) if family == "qwen2_5_vl" else (1000 / columns, 1000 / rows)
    )
    said = [x * x_scale, y * y_scale, (x + width) * x_scale, (y + height) * y_scale]
    x0, y0, x1, y1 = (f"{value:06.2f}" for value in said)
    if family == "qwen2_vl":
        reply, other = f"<|box_start|>({x0},{y0}),({x1},{y1})<|box_end|>", "nothing of it"
    else:
        reply, other = f'[{{"bbox_2d": [{x0}, {y0}, {x1}, {y1}]}}]', "nothing of it"
    size = len(baseline.vlm.tokenizer(reply, add_special_tokens=False)["input_ids"])
    other += " x" * (size - len(baseline.vlm.tokenizer(other)["input_ids"]))
    baseline.max_new_tokens, before = 100, baseline.max_new_tokens
    with Dictation(baseline.vlm, [reply, other]):
        (prediction,) = baseline.predict_phrases(image, [as_continuations(["a", "b", "a"])])
    baseline.max_new_tokens = before

    predictor = SamPredictor(baseline.sam.sam)
    predictor.set_image(image.image)
    masks, _, _ = predictor.predict(
        box=np.array([x, y, x + width, y + height]), multimask_output=False
    )
    assert prediction[0].problem is None and prediction[2].problem is None
    assert "holds no readable box: 'nothing of it" in prediction[1].problem
    assert 0 < masks[0].sum() < masks[0].size
    differing = (prediction.masks[0] != masks[0]).mean()
    assert differing < 1e-3  # the box was said with two decimals
    assert prediction[0] == prediction[2] and prediction[1].is_empty
    assert 0.5 < prediction.scores[0] <= 1 and prediction.scores[1] == 0


def test_lists_of_questions_share_one_reading_and_one_encoding(baseline, photograph):
    image = baseline.vlm.image_processor.encode(photograph)
    read = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: read.append(name))
        for name, module in (
            ("reader", baseline.vlm.model.model.visual),
            ("sam", baseline.sam.sam.image_encoder),
        )
    ]
    joined = Continuation("the red circle. the small blue square.", ((0, 14), (16, 37)))
    first = as_continuations(PHRASES)
    try:
        predictions = baseline.predict_phrases(image, [first, [joined], []])
        assert read == ["reader"]  # no box, nothing for SAM to do
        box = torch.tensor([5.0, 6.0, 90.0, 80.0])
        baseline._draw(image, [None, box, box / 2])
        assert read == ["reader", "sam"]
    finally:
        for hook in hooks:
            hook.remove()
    assert [len(item.masks) for item in predictions] == [3, 2, 0]
    assert [item.problem for item in predictions[1]] == [predictions[0][i].problem for i in (0, 1)]
    assert predictions[2].scores.shape == (0,)


def test_replies_are_those_of_generate(baseline, photograph):
    image = baseline.vlm.image_processor.encode(photograph)
    shown = tuple(image.pixel_values.shape[1:])
    _, problems = baseline._ask(image, ["a dog", "左边的杯子"])
    for phrase, problem in zip(["a dog", "左边的杯子"], problems):
        prefix = baseline.vlm.prefill(image, build_box_question(baseline.model_type, phrase))
        reply = baseline.vlm.generate(prefix, max_new_tokens=6)
        assert parse_box(reply, baseline.model_type, shown, image.original_size).problem == problem


@pytest.fixture(scope="module")
def tiny():
    """The embedded reader; it has learned to describe scenes, not to name boxes."""
    return MODELS.build(
        dict(
            type="BoxBaseline",
            model=dict(type="FrozenQwen", name_or_path="tiny", dtype="float32"),
            sam=dict(type="SAMRefiner", model_name="tiny"),
            max_new_tokens=4,
        )
    ).eval()


def test_nothing_in_it_is_trained(tiny):
    assert not any(weight.requires_grad for weight in tiny.parameters())
    assert not any(weight.requires_grad for weight in tiny.vlm.model.parameters())


def test_a_baseline_without_sam_is_told(tiny):
    with pytest.raises(ValueError, match="the box baseline needs SAM: give sam=dict"):
        BoxBaseline(tiny.vlm, None)
