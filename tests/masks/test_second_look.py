"""A second look: segment-anything's own numbers on the crop, shared crops, what stays as it is."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from torch import nn

from flmm.inferencer import GroundingInferencer
from flmm.masks import Sam2Refiner, SamHQRefiner, SAMRefiner, SecondLook
from flmm.masks.second_look import build_second_look
from flmm.toy.shape_sentences import render_samples
from tests.masks.sam_configs import SAM2, SAM_HQ

SIZE = (211, 318)
# Middle (x, y) and half axes in pixels: two nearly alike, one near the corner, a thin one.
PLACES = [(80, 60, 11, 9), (81, 60, 11, 9), (310, 204, 12, 10), (160, 150, 3, 30)]


@pytest.fixture(scope="module")
def refiner():
    return SAMRefiner("tiny", use_text=False).eval()


def draw_picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def draw_logits(places=PLACES, size=SIZE):
    """Positive inside of ellipses, and the same on a coarse grid."""
    rows, columns = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    far = [((columns - x) / w) ** 2 + ((rows - y) / h) ** 2 for x, y, w, h in places]
    first = (9 * (1 - torch.stack(far))).clamp(min=-8)
    coarse = nn.functional.interpolate(first[:, None], size=(40, 57), mode="area")[:, 0]
    return first, coarse


def ask_predictor(sam, crop, prompt):
    """What segment-anything says of a crop, prompted with logits ``[h, w]`` and their box."""
    predictor = SamPredictor(sam)
    predictor.set_image(np.ascontiguousarray(crop))
    rows, columns = np.where(prompt.sigmoid().numpy() > 0.5)
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    inside = nn.functional.interpolate(prompt[None, None], predictor.input_size, mode="bilinear")
    padding = (0, 256 - inside.shape[-1], 0, 256 - inside.shape[-2])
    framed = nn.functional.pad(inside, padding, value=min(-1.0, prompt.min().item()))
    logits, _, _ = predictor.predict_torch(
        point_coords=None,
        point_labels=None,
        boxes=torch.from_numpy(predictor.transform.apply_boxes(box, crop.shape[:2])).float(),
        mask_input=nn.functional.interpolate(framed, (64, 64), mode="bilinear"),
        multimask_output=False,
        return_logits=True,
    )
    return logits[0, 0]


@torch.no_grad()
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_a_paste_is_what_segment_anything_says_of_the_crop(refiner, weight):
    picture, (first, coarse) = draw_picture(), draw_logits()
    look = SecondLook(weight=weight, limit=4.0)
    got = look.refine(refiner, picture, coarse, first)
    wide = nn.functional.interpolate(coarse[None], SIZE, mode="bilinear", align_corners=False)[0]
    for phrase, (x0, y0, x1, y1) in enumerate(look.choose_crops(first)):
        window = (slice(y0, y1), slice(x0, x1))
        prompt = (first[phrase][window].clip(-4, 4) + wide[phrase][window]) / 2
        said = ask_predictor(refiner.sam, picture[window], prompt)
        expected = first[phrase].clone()
        expected[window] = weight * said + (1 - weight) * first[phrase][window]
        assert (got[phrase] - expected).abs().max() < 1e-4
        assert (got[phrase] - first[phrase]).abs().max() > 1


@torch.no_grad()
@pytest.mark.parametrize("kind", ["SAM", "SAM 2.1", "SAM-HQ"])
def test_phrases_of_one_object_are_encoded_once_and_know_nothing_of_each_other(kind):
    torch.manual_seed(0)
    if kind == "SAM":
        refiner = SAMRefiner("tiny").eval()
    else:
        build, settings = (Sam2Refiner, SAM2) if kind == "SAM 2.1" else (SamHQRefiner, SAM_HQ)
        refiner = build(random_init=settings).eval()
    picture, (first, coarse) = draw_picture(), draw_logits()
    words = [torch.randn(length, refiner.embed_dim) for length in (3, 1, 3, 2)]
    seen = []
    encode = refiner.encode
    refiner.encode = lambda pictures: seen.extend(pictures) or encode(pictures)
    look = SecondLook()
    together = look.refine(refiner, picture, coarse, first, words)
    assert len(seen) == 3 and together.shape == first.shape
    for row in range(4):
        own = slice(row, row + 1)
        alone = look.refine(refiner, picture, coarse[own], first[own], words[own])
        assert (together[own] - alone).abs().max() < 1e-4
        assert (alone - first[own]).abs().max() > 0.1


def test_empty_large_and_scattered_masks_stay_as_they_are(refiner):
    first, coarse = draw_logits([(80, 60, 90, 50), (80, 60, 9, 9)])
    first[1] = torch.maximum(*draw_logits([(20, 20, 9, 9), (300, 190, 9, 9)])[0])
    first = torch.cat([first, torch.full((1, *SIZE), -3.0)])
    coarse = torch.cat([coarse, coarse[:1]])
    calls = Counter()
    hook = refiner.sam.image_encoder.register_forward_hook(lambda *_: calls.update(["encode"]))
    got = SecondLook().refine(refiner, draw_picture(), coarse, first)
    hook.remove()
    assert torch.equal(got, first) and got is not first and not calls
    none = SecondLook().refine(refiner, draw_picture(), coarse[:0], first[:0])
    assert none.shape == (0, *SIZE)


@pytest.mark.parametrize("size", [SIZE, (400, 90), (31, 500), (64, 64)], ids=str)
def test_a_crop_is_square_inside_the_picture_and_holds_the_mask_with_its_surroundings(size):
    height, width = size
    grid = itertools.product(range(4, width, 61), range(3, height, 37), (2, 5, 14))
    places = [(x, y, w, w * 0.6 + 1) for x, y, w in grid]
    first, _ = draw_logits(places, size)
    look = SecondLook(max_share=1.0)
    for mask, crop in zip((first > 0).numpy(), look.choose_crops(first)):
        rows, columns = np.where(mask)
        extent = max(np.ptp(rows), np.ptp(columns)) + 1
        if crop is None:
            assert extent * look.context * 1.45 > max(size)
            continue
        x0, y0, x1, y1 = crop
        side = max(x1 - x0, y1 - y0)
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        assert (x1 - x0, y1 - y0) == (min(side, width), min(side, height))
        assert look.context * extent <= side <= 1.45 * look.context * extent + 1 < 2 * max(size)
        room = side * (0.5 - 1 / 16 - 0.5 / look.context) - 2  # wherever the middle is rounded to
        assert columns.min() - x0 >= min(room, columns.min())
        assert x1 - 1 - columns.max() >= min(room, width - 1 - columns.max())
        assert rows.min() - y0 >= min(room, rows.min())
        assert y1 - 1 - rows.max() >= min(room, height - 1 - rows.max())


def test_the_toys_small_objects_become_sharper_and_training_does_not_see_it():
    door = GroundingInferencer("tiny", device="cpu", cfg_options={"model.second_look": {}})
    grounder, plain, sharp = door.model, [], []
    for sample in render_samples(3, seed=62):
        small = sample.masks.mean((1, 2)) < 0.02
        phrases = [phrase for phrase, chosen in zip(sample.phrases, small) if chosen]
        second, grounder.second_look = grounder.second_look, None
        before = door(sample.image, phrases).masks
        grounder.second_look = second
        for masks, ious in ((before, plain), (door(sample.image, phrases).masks, sharp)):
            true = sample.masks[small]
            ious += ((masks & true).sum((1, 2)) / (masks | true).sum((1, 2))).tolist()
    grounder.train()
    assert np.array_equal(door(sample.image, phrases).masks, before)
    assert len(plain) == 9 and np.mean(sharp) > np.mean(plain) + 0.04


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_area": 0.1}, "second_look has no 'max_area': its settings are max_share, context"),
        ({"max_share": 0.0}, r"max_share 0\.0, .* give the first two in \(0, 1\]"),
        ({"context": 1.0}, r"second_look\.context is 1\.0: give at least 1\.5"),
    ],
)
def test_settings_that_mean_nothing_are_told(refiner, settings, message):
    with pytest.raises(ValueError, match=message):
        build_second_look(settings, refiner)
    with pytest.raises(ValueError, match="second_look needs a refiner, and sam is None"):
        build_second_look({}, None)
