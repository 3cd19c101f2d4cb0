"""The embedded model really grounds: on its own renderer's scenes, and on another's.

The bounds are far below the measured figures (docs/tiny_model.md) and far above chance.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import flmm
from flmm import GroundingInferencer
from flmm.toy.shape_sentences import render_samples

ASSETS = Path(flmm.__file__).parent / "assets"


@pytest.fixture(scope="module")
def grounder():
    return GroundingInferencer("configs/tiny/tiny_unet_sam_shapes.py", device="cpu")


def compute_ciou(masks, truths):
    intersection = sum((m & t).sum() for m, t in zip(masks, truths))
    return intersection / sum((m | t).sum() for m, t in zip(masks, truths))


def test_assets_are_small():
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    assert size < 12e6


def test_it_says_that_it_is_a_toy(grounder):
    assert grounder.model.vlm.notice.startswith("This is the toy embedded in flmm")


def test_phrases_become_their_masks_and_others_do_not(grounder):
    samples = render_samples(25, seed=77)
    masks, truths, swapped = [], [], []
    for sample in samples:
        result = grounder(sample.image, sample.phrases)
        masks += list(result.masks)
        truths += list(sample.masks)
        if len(sample.phrases) > 1:
            swapped += list(zip(result.masks, np.roll(sample.masks, 1, axis=0)))
    assert compute_ciou(masks, truths) > 0.45
    assert compute_ciou(*zip(*swapped)) < 0.15


def test_a_caption_grounds_its_phrases(grounder):
    """Phrases joined into one continuation, later ones seeing earlier ones."""
    masks, truths = [], []
    for sample in render_samples(15, seed=78):
        text, spans = "", []
        for phrase in sample.phrases:
            spans.append((len(text), len(text) + len(phrase)))
            text += phrase + ", "
        masks += list(grounder(sample.image, flmm.Continuation(text, tuple(spans))).masks)
        truths += list(sample.masks)
    assert compute_ciou(masks, truths) > 0.2


def draw_with_pillow(background, objects, size=(320, 240)):
    """A plain scene from another renderer; gives the picture and one mask per object."""
    picture = Image.new("RGB", size, background)
    masks = []
    for shape, color, (x, y), radius in objects:
        mask = Image.new("L", size, 0)
        for canvas, fill in ((picture, color), (mask, 255)):
            pen, box = ImageDraw.Draw(canvas), (x - radius, y - radius, x + radius, y + radius)
            if shape == "circle":
                pen.ellipse(box, fill=fill)
            elif shape == "square":
                pen.rectangle(box, fill=fill)
            elif shape == "triangle":
                pen.polygon(
                    [(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=fill
                )
            else:
                arm = radius // 3
                pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=fill)
                pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=fill)
        masks.append(np.asarray(mask) > 0)
    return picture, masks


SCENES = [
    ("white", [("circle", "red", (80, 70), 40), ("square", "blue", (230, 150), 40)]),
    ("lightgray", [("triangle", "green", (90, 160), 45), ("cross", "purple", (240, 80), 40)]),
    ("white", [("square", "red", (70, 170), 40), ("square", "green", (240, 70), 40)]),
    ("black", [("circle", "yellow", (90, 100), 38), ("triangle", "orange", (230, 150), 44)]),
    ((210, 225, 240), [("circle", "blue", (250, 60), 24), ("circle", "red", (90, 150), 48)]),
    ("white", [("cross", "black", (80, 80), 42), ("circle", "green", (235, 165), 42)]),
]


def test_scenes_of_another_renderer(grounder):
    masks, truths = [], []
    for background, objects in SCENES:
        picture, expected = draw_with_pillow(background, objects)
        phrases = [f"the {color} {shape}" for shape, color, _, _ in objects]
        masks += list(grounder(picture, phrases).masks)
        truths += expected
    ious = [(m & t).sum() / (m | t).sum() for m, t in zip(masks, truths)]
    assert np.mean(ious) > 0.6
