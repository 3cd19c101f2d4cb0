"""Referring sentences for synthetic scenes, each true of one object only."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np

from flmm.toy.shapes import Scene, ShapeObject, render_scene


class Sentence(NamedTuple):
    """A referring sentence and which attributes it uses."""

    kind: str
    text: str


class Sample(NamedTuple):
    """A picture (uint8 RGB ``[H, W, 3]``), phrases, and their true masks (bool ``[P, H, W]``)."""

    image: np.ndarray
    phrases: list[str]
    masks: np.ndarray


def list_sentences(scene: Scene, target: ShapeObject) -> list[Sentence]:
    """Every unambiguous referring sentence of an object, without article.

    Kinds: ``shape``, ``color+shape``, ``size+shape``, ``size+color+shape``, ``place`` (an
    attribute phrase with left, right, top, bottom or a corner) and ``superlative``.
    """
    sentences = []
    for words in (("shape",), ("color", "shape"), ("size", "shape"), ("size", "color", "shape")):
        phrase = target.name(*words)
        others = [
            item for item in scene.objects if item is not target and item.name(*words) == phrase
        ]
        if not others:
            sentences.append(Sentence("+".join(words), phrase))
        sentences += _list_place_sentences(scene, target, others, phrase)
        if others:
            sentences += _list_superlatives(scene, target, others, phrase)
    return sentences


def draw_sentence(rng: random.Random, scene: Scene, target: ShapeObject) -> Sentence | None:
    """One sentence of an object, kinds drawn evenly; ``None`` where no word tells it apart."""
    by_kind = _group_by_kind(scene, target)
    return rng.choice(by_kind[rng.choice(sorted(by_kind))]) if by_kind else None


def pick_sentences(
    rng: random.Random, scene: Scene, target: ShapeObject, count: int
) -> list[Sentence]:
    """Up to ``count`` different sentences of an object, kinds drawn evenly, articles varied."""
    by_kind = _group_by_kind(scene, target)
    kinds = sorted(by_kind)
    rng.shuffle(kinds)
    picked = []
    for kind in kinds[:count]:
        text = rng.choice(by_kind[kind]).text
        picked.append(Sentence(kind, f"the {text}" if rng.random() < 0.5 else text))
    return picked


def render_samples(count: int, seed: int) -> list[Sample]:
    """Pictures with one phrase per object and its true mask; kinds of phrases vary.

    The same arguments give the same samples.
    """
    samples = []
    for index in range(count):
        rng = random.Random(f"flmm sample {seed} {index}")
        scene = render_scene(rng)
        phrases, masks = [], []
        for item in scene.objects:
            for sentence in pick_sentences(rng, scene, item, 1):
                phrases.append(sentence.text)
                masks.append(item.mask)
        samples.append(Sample(scene.image, phrases, np.stack(masks)))
    return samples


def _group_by_kind(scene: Scene, target: ShapeObject) -> dict[str, list[Sentence]]:
    by_kind: dict[str, list[Sentence]] = {}
    for sentence in list_sentences(scene, target):
        by_kind.setdefault(sentence.kind, []).append(sentence)
    return by_kind


def _relative_center(scene: Scene, item: ShapeObject) -> tuple[float, float]:
    height, width = scene.image_size
    return item.center_xy[0] / width, item.center_xy[1] / height


def _list_place_sentences(
    scene: Scene, target: ShapeObject, others: list[ShapeObject], phrase: str
) -> list[Sentence]:
    """The phrase with a side or a corner that no other object of the phrase lies in."""

    def lies(item: ShapeObject, side: str, edge: float) -> bool:
        x, y = _relative_center(scene, item)
        return {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}[side] < edge

    def fits(*sides: str) -> bool:
        inside = all(lies(target, side, 0.42) for side in sides)
        return inside and not any(all(lies(o, side, 0.56) for side in sides) for o in others)

    texts = []
    for side, preposition in (("left", "on"), ("right", "on"), ("top", "at"), ("bottom", "at")):
        if fits(side):
            texts += [f"{phrase} {preposition} the {side}", f"{side} {phrase}"]
    for corner in (("top", "left"), ("top", "right"), ("bottom", "left"), ("bottom", "right")):
        if fits(*corner):
            texts.append(f"{phrase} in the {' '.join(corner)}")
    return [Sentence("place", text) for text in texts]


def _list_superlatives(
    scene: Scene, target: ShapeObject, others: list[ShapeObject], phrase: str
) -> list[Sentence]:
    """The phrase with leftmost, rightmost, topmost or bottommost, 8 % of the side apart."""
    x, y = _relative_center(scene, target)
    xs, ys = zip(*(_relative_center(scene, item) for item in others))
    lead = {
        "leftmost": min(xs) - x,
        "rightmost": x - max(xs),
        "topmost": min(ys) - y,
        "bottommost": y - max(ys),
    }
    return [Sentence("superlative", f"{word} {phrase}") for word, gap in lead.items() if gap > 0.08]
