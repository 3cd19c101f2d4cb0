"""Referring sentences for synthetic scenes, each true of one object only.

In: a scene. Out: sentences by kind (attributes, places, superlatives), and samples for
demonstrations. It draws nothing and writes no file.
"""

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
        alike = [
            o for o in scene.objects if all(getattr(o, w) == getattr(target, w) for w in words)
        ]
        phrase = " ".join(getattr(target, word) for word in words)
        if len(alike) == 1:
            sentences.append(Sentence("+".join(words), phrase))
        others = [item for item in alike if item is not target]
        sentences += _list_place_sentences(scene, target, others, phrase)
        if others:
            sentences += _list_superlatives(scene, target, others, phrase)
    return sentences


def pick_sentences(
    rng: random.Random, scene: Scene, target: ShapeObject, count: int
) -> list[Sentence]:
    """Up to ``count`` different sentences of an object, kinds drawn evenly, articles varied."""
    by_kind: dict[str, list[Sentence]] = {}
    for sentence in list_sentences(scene, target):
        by_kind.setdefault(sentence.kind, []).append(sentence)
    kinds = sorted(by_kind)
    rng.shuffle(kinds)
    picked = []
    for kind in kinds[:count]:
        text = rng.choice(by_kind[kind]).text
        picked.append(Sentence(kind, f"the {text}" if rng.random() < 0.5 else text))
    return picked


def render_samples(count: int, seed: int) -> list[Sample]:
    """Pictures with one phrase per object and its true mask, for demonstrations.

    The kinds of phrases vary from object to object; the same arguments give the same samples.
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


def _relative_center(scene: Scene, item: ShapeObject) -> tuple[float, float]:
    height, width = scene.image_size
    return item.center_xy[0] / width, item.center_xy[1] / height


def _list_place_sentences(
    scene: Scene, target: ShapeObject, others: list[ShapeObject], phrase: str
) -> list[Sentence]:
    """The phrase with a side or a corner that no other object of the phrase lies in."""

    def lies(item: ShapeObject, side: str, edge: float) -> bool:
        x, y = _relative_center(scene, item)
        position = {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}[side]
        return position < edge

    def fits(*sides: str) -> bool:
        inside = all(lies(target, side, 0.42) for side in sides)
        return inside and not any(all(lies(o, side, 0.56) for side in sides) for o in others)

    sentences = []
    for side in ("left", "right", "top", "bottom"):
        if fits(side):
            preposition = "on the" if side in ("left", "right") else "at the"
            sentences.append(Sentence("place", f"{phrase} {preposition} {side}"))
            sentences.append(Sentence("place", f"{side} {phrase}"))
    for vertical in ("top", "bottom"):
        for horizontal in ("left", "right"):
            if fits(vertical, horizontal):
                sentences.append(Sentence("place", f"{phrase} in the {vertical} {horizontal}"))
    return sentences


def _list_superlatives(
    scene: Scene, target: ShapeObject, others: list[ShapeObject], phrase: str
) -> list[Sentence]:
    """The phrase with leftmost, rightmost, topmost or bottommost, 8 % of the side apart."""
    x, y = _relative_center(scene, target)
    rest = [_relative_center(scene, item) for item in others]
    lead = {
        "leftmost": min(other[0] for other in rest) - x,
        "rightmost": x - max(other[0] for other in rest),
        "topmost": min(other[1] for other in rest) - y,
        "bottommost": y - max(other[1] for other in rest),
    }
    return [Sentence("superlative", f"{word} {phrase}") for word, gap in lead.items() if gap > 0.08]
