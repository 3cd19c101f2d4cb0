"""What the tiny reader reads: referring turns and captions of a scene, as plain text.

A phrase is followed at once by something that only the pixels can tell (where the object is,
or how it looks), so that the reader has to look at the object while it says the phrase. The
place is said either in words (``top left``) or as two digits, column and row in a ten by ten
grid: the toy's version of Qwen's box tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from flmm.toy.shape_lists import write_list
from flmm.toy.shape_sentences import draw_sentence
from flmm.toy.shapes import Scene, ShapeObject

PROMPT = "Please give me a description of the image."
_GRID_SIDE = 10


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


def write_turns(rng: random.Random, scene: Scene, count: int = 8) -> list[Turn]:
    """``count`` referring turns, objects in turn, and in a third of the scenes a caption."""
    turns = write_referring_turns(rng, scene, count)
    if rng.random() < 0.35 or not turns:
        turns.append(Turn(write_list(rng, scene)[0]))
    return turns


def write_referring_turns(rng: random.Random, scene: Scene, count: int) -> list[Turn]:
    """``count`` referring turns, kinds drawn evenly; fewer where no word tells an object apart."""
    items = list(scene.objects)
    rng.shuffle(items)
    turns: list[Turn] = []
    for index in range(count):
        item = items[index % len(items)]
        sentence = draw_sentence(rng, scene, item)
        if sentence is not None:
            phrase = f"the {sentence.text}" if rng.random() < 0.5 else sentence.text
            in_digits = rng.random() < 0.7
            where = (
                _describe_cell(scene, item)
                if in_digits
                else f" {' '.join(item.place(scene.image_size))}"
            )
            look = item.name("size", "color", "shape")
            turns.append(Turn(f"{phrase}{where} {look}", phrase, sentence.kind))
    return turns


def _describe_cell(scene: Scene, item: ShapeObject) -> str:
    """Column and row digit of the object's centre in a ten by ten grid."""
    height, width = scene.image_size
    column = min(_GRID_SIDE - 1, int(_GRID_SIDE * item.center_xy[0] / width))
    row = min(_GRID_SIDE - 1, int(_GRID_SIDE * item.center_xy[1] / height))
    return f"{column}{row}"
