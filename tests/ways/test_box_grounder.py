"""Pointing by boxes: one reading, the family's own boxes, segment-anything's own masks."""

import collections
import json

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor
from torch import nn

from flmm.geometry import find_box_cells, resize_maps
from flmm.masks import SAMRefiner
from flmm.readers import FrozenQwen
from flmm.readers.boxes import read_boxes
from flmm.records import Continuation, as_continuations
from flmm.registry import MODELS
from flmm.rle import decode_mask
from flmm.ways import WAYS, BoxGrounder, configure_way, name_way, predict_together
from tests.small_models import FAMILY_FOLDERS, build_small_model, load_processor

PHRASES = ["the red circle", "the small blue square", "the red circle"]


one_family = pytest.mark.parametrize("grounder", ["qwen2_5_vl"], indirect=True)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.heavy] * (name != "qwen2_5_vl"))
        for name in sorted(FAMILY_FOLDERS)
    ],
)
def grounder(request, data_dir):
    reader = FrozenQwen.from_model(
        build_small_model(data_dir, request.param), load_processor(data_dir, request.param)
    )
    torch.manual_seed(0)
    return BoxGrounder(reader, SAMRefiner("tiny"), max_new_tokens=6).eval()


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


def ask(grounder, photograph, *questions):
    image = grounder.vlm.image_processor.encode(photograph)
    return grounder.predict_images([image], [list(map(as_continuations, questions))])[0]


@pytest.fixture(scope="module")
def person(data_dir):
    """The box of somebody on the photograph, annotated by people: x0, y0, x1, y1."""
    annotations = json.loads((data_dir / "coco" / "instances_people.json").read_text())
    x, y, width, height = next(
        item["bbox"] for item in annotations["annotations"] if item["image_id"] == 785
    )
    return np.array([x, y, x + width, y + height])


def say(grounder, boxes, size):
    """Boxes in pixels of a picture of (h, w), as the reader's family says them."""
    image_format, (height, width) = grounder.box_format, size
    sides = np.array([1000, 1000])
    if image_format.token_px:
        picture = Image.fromarray(np.zeros((height, width, 3), np.uint8))
        shown = grounder.vlm.image_processor.encode(picture).pixel_values.shape
        sides = np.array(shown[:0:-1])
    said = [
        [f"{value:06.2f}" for value in box * np.tile(sides / [width, height], 2)] for box in boxes
    ]
    if grounder.vlm.model.config.model_type == "qwen2_vl":
        return "".join(
            f"<|box_start|>({x0},{y0}),({x1},{y1})<|box_end|>" for x0, y0, x1, y1 in said
        )
    named = [f'{{"bbox_2d": [{", ".join(box)}], "label": "somebody"}}' for box in said]
    return f"[{', '.join(named)}]"


def pad(grounder, text, other):
    """``other``, made as long as ``text`` in tokens."""
    size, own = (
        len(grounder.vlm.tokenizer(item, add_special_tokens=False)["input_ids"])
        for item in (text, other)
    )
    return other + " x" * (size - own)


def test_random_replies_are_problems_and_empty_masks(grounder, photograph):
    (result,) = ask(grounder, photograph, PHRASES)
    assert result.masks.shape == (3, photograph.height, photograph.width)
    assert not result.masks.any() and not result.coarse_masks.any()
    assert result.scores.tolist() == result.presence.tolist() == [0, 0, 0]
    assert all("holds no readable box" in item.problem for item in result)
    assert result[0].problem == result[2].problem


def test_named_boxes_become_segment_anythings_masks(grounder, photograph, person):
    """A person's box and its left half, said in the model's own frame, prompt SAM."""
    half = person.copy()
    half[2] = person[[0, 2]].mean()
    reply = say(grounder, [person, half, person], photograph.size[::-1])
    patient = BoxGrounder(grounder.vlm, grounder.sam, max_new_tokens=150).eval()
    with Dictation(grounder.vlm, [reply, pad(grounder, reply, "nothing of it")]):
        (result,) = ask(patient, photograph, ["a", "b", "a"])
    predictor = SamPredictor(grounder.sam.sam)
    predictor.set_image(np.asarray(photograph))
    wanted = [predictor.predict(box=box, multimask_output=False)[0][0] for box in (person, half)]
    assert all(0 < mask.sum() < mask.size for mask in wanted)
    assert [item.problem is None for item in result] == [True, False, True]
    assert "holds no readable box: 'nothing of it" in result[1].problem
    assert len(result[0].objects) == 2 and result[0] == result[2] and result[1].is_empty
    for item, mask in zip(result[0].objects, wanted):
        differing = (decode_mask(item.segmentations[0]) != mask).mean()
        assert differing < 1e-3  # the box was said with two decimals
    assert (result.masks[0] != (wanted[0] | wanted[1])).mean() < 1e-3
    assert result[0].score == max(item.score for item in result[0].objects) > 0.5
    x0, y0, x1, y1 = person
    inside = result.coarse_masks[0][int(y0) + 5 : int(y1) - 5, int(x0) + 5 : int(x1) - 5]
    assert inside.all() and not result.coarse_masks[0][: int(y0) - 30].any()


def test_replies_are_those_of_generate(grounder, photograph):
    image = grounder.vlm.image_processor.encode(photograph)
    phrases = ["a dog", "左边的杯子"]
    found = grounder.find_boxes(grounder.vlm.prefill(image), ["a dog", " ", *phrases])
    assert found[0] is found[2] and found[1].problem == "there are no words to ask for a box of"
    for phrase, reading in zip(phrases, found[2:]):
        prefix = grounder.vlm.prefill(image, grounder.box_format.ask(phrase))
        reply = grounder.vlm.generate(prefix, grounder.max_new_tokens)
        assert read_boxes(reply, grounder.box_format, image).problem == reading.problem


class MapOf(nn.Module):
    """A mask head that draws a box, whatever the reader saw."""

    def __init__(self, box, size):
        super().__init__()
        cells = find_box_cells(torch.tensor(box)[None].float(), size, (32, 32))
        self.register_buffer("logits", torch.where(cells, 4.0, -4.0))

    def forward(self, maps):
        return self.logits.expand(len(maps), 1, -1, -1)


@one_family
def test_the_box_bounds_the_map_and_the_map_chooses(grounder, photograph, person):
    """Of a person's box and another in a corner, the map of the person's left half keeps one."""
    size, half = photograph.size[::-1], person.copy()
    half[2] = person[[0, 2]].mean()
    both = BoxGrounder(grounder.vlm, grounder.sam, MapOf(half, size), max_new_tokens=150).eval()
    corner, right, lower = np.array([2, 2, 60, 50]), person.copy(), person.copy()
    right[0], lower[:2] = half[2] + 30, (half[2] + 30, person[1] + 60)
    replies = [say(grounder, boxes, size) for boxes in ([corner, person], [right, lower])]
    with Dictation(grounder.vlm, [*replies, pad(grounder, replies[0], "none")]):
        (result,) = ask(both, photograph, ["a", "b", "c"])
    image = grounder.vlm.image_processor.encode(photograph)
    (encoding,) = grounder.encode_images([image])
    boxes = torch.tensor(np.stack([person, right, lower])).float()
    first, *alone = (grounder.sam.refine_boxes(encoding, boxes) > 0).numpy()
    # Nothing of the map is in either box: they stand, as without a map.
    assert np.any(alone) and (result.masks[1] != np.any(alone, 0)).mean() < 1e-3
    assert [len(item.objects) for item in result] == [1, sum(map(np.any, alone)), 1]
    drawn = both.mask_head.logits[None, 0]
    inside = find_box_cells(boxes[:1], size, (32, 32))
    bounded = torch.where(inside, drawn, -10.0)
    assert (result.masks[0] != first).mean() < 1e-3
    assert np.array_equal(result.coarse_masks[0], (resize_maps(bounded, size) > 0)[0].numpy())
    # No box: where the words look, as of any grounder, and it is told.
    free = (both.sam.refine(encoding, drawn) > 0).numpy()
    assert np.array_equal(result.masks[2], free[0]) and "no readable box" in result[2].problem
    assert [item.problem for item in result[:2]] == [None, None]


@one_family
def test_the_ways_share_one_reading_and_one_encoding(grounder, photograph):
    """Each way's results are those of a run of its own."""
    choice = {"heads": [(1, 0), (2, 3)], "num_layers": 4, "num_heads": 4}
    parts = grounder.vlm, grounder.sam, choice
    ways = [MODELS.build(configure_way(way, *parts)).eval() for way in WAYS]
    assert [name_way(item) for item in ways] == list(WAYS)
    for item in ways[1:]:
        item.max_new_tokens = 6
    images = [grounder.vlm.image_processor.encode(photograph)] * 2
    joined = Continuation("the red circle. the small blue square.", ((0, 14), (16, 37)))
    questions = [[as_continuations(PHRASES), [joined]], [as_continuations("a dog")]]
    count = collections.Counter()
    watched = {
        "read": grounder.vlm.model.model.visual,
        "encoded": grounder.sam.sam.image_encoder,
        "words": grounder.vlm.model.get_output_embeddings(),
    }
    hooks = [
        module.register_forward_hook(lambda *_, name=name: count.update([name]))
        for name, module in watched.items()
    ]
    together = predict_together(ways, images, questions)
    assert count["read"] == count["encoded"] == 1  # both pictures in one pass
    once = count.pop("words")
    alone = [item.predict_images(images, questions) for item in ways]
    for hook in hooks:
        hook.remove()
    assert count["words"] == 2 * once and count["read"] == 1 + len(ways)
    assert together == alone
    assert [[len(item) for item in own] for own in together[2]] == [[3, 2], [1]]


def test_nothing_is_trained_under_the_former_name_of_a_config():
    tiny = MODELS.build(
        dict(
            type="BoxBaseline",
            model=dict(type="FrozenQwen", name_or_path="tiny", dtype="float32"),
            sam=dict(type="SAMRefiner", model_name="tiny"),
            max_new_tokens=4,
        )
    )
    assert isinstance(tiny, BoxGrounder) and tiny.max_new_tokens == 4
    assert not any(weight.requires_grad for weight in tiny.parameters())
    assert not any(weight.requires_grad for weight in tiny.vlm.model.parameters())
    with pytest.raises(ValueError, match="pointing by boxes needs SAM: give sam=dict"):
        BoxGrounder(tiny.vlm, None)


def test_a_way_that_is_not_known_or_knows_no_heads_is_told():
    with pytest.raises(ValueError, match="way is 'boxes': give one of 'attention', 'box', 'both'"):
        configure_way("boxes", None, None)
    with pytest.raises(ValueError, match="'both' needs to know which heads point: choose them"):
        configure_way("both", None, None)
