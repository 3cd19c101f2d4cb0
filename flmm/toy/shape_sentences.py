"""Referring sentences for synthetic scenes: true of one object only, of several, or of none."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np

from flmm.toy.shapes import COLORS, SHAPES, Scene, ShapeObject, render_scene

# Words that make a group, from the most telling.
_GROUPINGS = ("size color shape", "color shape", "size shape", "shape", "size color", "color")
# What sentences of one object look like, about a colour and a shape.
_ABSENT_FORMS = ("{}", "small {}", "big {}", "left {}", "{} on the right", "leftmost {}")


class Sentence(NamedTuple):
    """A referring sentence and which attributes it uses."""

    kind: str
    text: str


class GroupSentence(NamedTuple):
    """A plural sentence, and the places in the scene of all objects that it is true of."""

    kind: str
    text: str
    objects: tuple[int, ...]


AnySentence = TypeVar("AnySentence", Sentence, GroupSentence)


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


def list_group_sentences(scene: Scene, noun: str = "shapes") -> list[GroupSentence]:
    """Every plural sentence that is true of two objects or more: "red circles", "big red shapes".

    Kinds are the attributes used, such as ``color+shape``; ``noun`` stands where no shape is named.
    """
    sentences = []
    for words in map(str.split, _GROUPINGS):
        groups: dict[str, list[int]] = {}
        for index, item in enumerate(scene.objects):
            groups.setdefault(item.name(*words), []).append(index)
        for name, members in groups.items():
            if len(members) > 1:
                text = _pluralise(name) if "shape" in words else f"{name} {noun}"
                sentences.append(GroupSentence("+".join(words), text, tuple(members)))
    return sentences


def list_absent_sentences(scene: Scene) -> list[Sentence]:
    """A colour and a shape that no object has together, such as "red ring" or "big red ring".

    Kinds say what the scene has not: ``absent color``, ``absent shape``, ``absent both``, or only
    the ``absent pair`` (there is something red and there is a ring). They are told in the forms of
    sentences of one object and of several, so that the form does not give them away.
    """
    colors = {item.color for item in scene.objects}
    shapes = {item.shape for item in scene.objects}
    names = {item.name("color", "shape") for item in scene.objects}
    lacking = {(True, True): "pair", (False, True): "color", (True, False): "shape"}
    sentences = []
    for color, shape in itertools.product(COLORS, SHAPES):
        name = f"{color} {shape}"
        if name not in names:
            kind = f"absent {lacking.get((color in colors, shape in shapes), 'both')}"
            texts = [*(form.format(name) for form in _ABSENT_FORMS), _pluralise(name)]
            texts += [shape] if kind == "absent shape" else []
            sentences += [Sentence(kind, text) for text in texts]
    return sentences


def draw_sentence(rng: random.Random, scene: Scene, target: ShapeObject) -> Sentence | None:
    """One sentence of an object, kinds drawn evenly; ``None`` where no word tells it apart."""
    by_kind = _group_by_kind(list_sentences(scene, target))
    return rng.choice(by_kind[rng.choice(sorted(by_kind))]) if by_kind else None


def pick_sentences(
    rng: random.Random, scene: Scene, target: ShapeObject, count: int
) -> list[Sentence]:
    """Up to ``count`` different sentences of an object, kinds drawn evenly, articles varied."""
    return pick_kinds(rng, list_sentences(scene, target), count)


def pick_kinds(
    rng: random.Random, sentences: Iterable[AnySentence], count: int
) -> list[AnySentence]:
    """One sentence of each of ``count`` kinds drawn evenly (or of all), articles varied."""
    by_kind = _group_by_kind(sentences)
    kinds = sorted(by_kind)
    rng.shuffle(kinds)
    picked = []
    for kind in kinds[:count]:
        sentence = rng.choice(by_kind[kind])
        article = "the " if rng.random() < 0.5 else ""
        picked.append(sentence._replace(text=article + sentence.text))
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


def _group_by_kind(sentences: Iterable[AnySentence]) -> dict[str, list[AnySentence]]:
    by_kind: dict[str, list[AnySentence]] = {}
    for sentence in sentences:
        by_kind.setdefault(sentence.kind, []).append(sentence)
    return by_kind


def _pluralise(name: str) -> str:
    return name + ("es" if name.endswith("cross") else "s")


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
