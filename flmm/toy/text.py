"""What the tiny reader reads: referring turns and captions of a scene, as plain text.

A phrase is followed at once by something that only the pixels can tell (where the object is,
or how it looks), so that the reader has to look at the object while it says the phrase. The
place is said either in words (``top left``) or as two digits, column and row in a ten by ten
grid: the toy's version of Qwen's box tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from flmm.toy.shape_sentences import list_sentences
from flmm.toy.shapes import COLORS, SHAPES, SIZES, Scene, ShapeObject

PROMPT = "Please give me a description of the image."
GRID_SIDE = 10


@dataclass(frozen=True)
class Turn:
    """One continuation after the prefix.

    Attributes:
        text: what the reader learns to say.
        phrase: the referring phrase it opens with, "" for a caption.
        kind: the phrase's kind, see ``list_sentences``.
    """

    text: str
    phrase: str = ""
    kind: str = "caption"


def describe_place(scene: Scene, item: ShapeObject) -> str:
    """Vertical and horizontal third in words, for example ``top left``."""
    return " ".join(item.place(scene.image_size))


def describe_cell(scene: Scene, item: ShapeObject) -> str:
    """Column and row digit of the object's centre in a ten by ten grid."""
    height, width = scene.image_size
    column = min(GRID_SIDE - 1, int(GRID_SIDE * item.center_xy[0] / width))
    row = min(GRID_SIDE - 1, int(GRID_SIDE * item.center_xy[1] / height))
    return f"{column}{row}"


def write_referring_turns(rng: random.Random, scene: Scene, count: int) -> list[Turn]:
    """``count`` referring turns, objects in turn, kinds drawn evenly."""
    items = list(scene.objects)
    rng.shuffle(items)
    turns: list[Turn] = []
    for index in range(count):
        item = items[index % len(items)]
        turns += _write_referring_turn(rng, scene, item)
    return turns


def _write_referring_turn(rng: random.Random, scene: Scene, item: ShapeObject) -> list[Turn]:
    by_kind: dict[str, list[str]] = {}
    for sentence in list_sentences(scene, item):
        by_kind.setdefault(sentence.kind, []).append(sentence.text)
    if not by_kind:
        return []
    kind = rng.choice(sorted(by_kind))
    phrase = rng.choice(by_kind[kind])
    if rng.random() < 0.5:
        phrase = f"the {phrase}"
    where = describe_cell(scene, item) if rng.random() < 0.7 else f" {describe_place(scene, item)}"
    look = f" {item.size} {item.color} {item.shape}"
    return [Turn(phrase + where + look, phrase, kind)]


def write_caption(rng: random.Random, scene: Scene) -> Turn:
    """Every object once, in random order, with size, colour, shape and place."""
    items = list(scene.objects)
    rng.shuffle(items)
    parts = []
    for item in items:
        size = f"{item.size} " if rng.random() < 0.6 else ""
        place = f" {describe_place(scene, item)}"
        parts.append(f"a {size}{item.color} {item.shape}{place}")
    return Turn(", ".join(parts) + ".")


def list_vocabulary_corpus() -> Iterator[str]:
    """Text from which the tokenizer learns its merges: every word with and without a space."""
    places = ["top", "middle", "bottom", "left", "center", "right"]
    superlatives = ["leftmost", "rightmost", "topmost", "bottommost"]
    function_words = "a an the on at in of and is are image picture please give me description"
    extra = "description show find segment object objects shape color what where which with to by"
    words = [*COLORS, *SHAPES, *SIZES, *places, *superlatives]
    words += function_words.split() + extra.split()
    template = ["<system>", "user\n", "assistant\n", PROMPT, "system\nYou are a helpful assistant."]
    for _ in range(20):
        for word in words:
            yield word
            yield f"a {word} {word}, {word}. {word}"
        yield from template
