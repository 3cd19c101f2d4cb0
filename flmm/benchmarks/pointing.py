"""Do words point at what they name? Counted on drawn scenes that nothing was trained on.

The toy writes a caption of each scene, every selector chooses phrases in it, and each phrase's mask
is compared with the object that its words name. Words that name nothing in the scene are the toy's
mistake, not the selector's or the mask's; they are counted apart, as are words that fit several
objects. For the brackets a user types each object's phrase in a question.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flmm.conversation import BRACKETS, Chat, PointedPhrase
from flmm.inferencer import GroundingInferencer
from flmm.records import Span
from flmm.selectors import build_selector
from flmm.toy.shape_sentences import pick_sentences
from flmm.toy.shapes import COLORS, SHAPES, SIZES, Scene, render_scene

Row = dict[str, Any]
PROMPT, BEGIN = "Please give me a description of the image.", "a"
QUESTION = "Where is [{}]?"
SELECTORS = (BRACKETS, "keywords", "reader", "noun_chunks")
MIN_IOU = 0.5
SEED = 2024
# In which order the counts stand in a row.
COUNTS = ("phrases", "name_one", "hit", "name_nothing", "name_several", "no_name", "missed")
_MENTION = re.compile(
    rf"(?:({'|'.join(SIZES)}) )?({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b"
    r"(?: (top|middle|bottom) (left|center|right)\b)?"
)


@dataclass(frozen=True)
class Mention:
    """A name in a caption.

    Attributes:
        noun: half-open character range of its last word.
        objects: places of the scene's objects that it fits.
    """

    noun: Span
    objects: list[int]


def measure_pointing(
    config: str,
    device: torch.device,
    scenes: int = 200,
    seed: int = SEED,
    selectors: Sequence[str] = SELECTORS,
) -> list[Row]:
    """One row per selector.

    Args:
        config: of the tiny model.
        device: of the model.
        scenes: how many are drawn.
        seed: scenes of two seeds have nothing in common.
        selectors: names.

    Returns:
        per selector how many ``phrases`` it chose; of these ``name_one`` object, ``name_nothing``
        in the scene, ``name_several`` things, or hold ``no_name`` at all; ``hit``: of those that
        name one, how many masks have an IoU above 0.5 with it, and ``hit_fraction``; ``missed``:
        names of one object that no phrase covers. What is not installed has a ``note`` instead.
    """
    inferencer = GroundingInferencer(config, device=device)
    counts: dict[str, Counter[str]] = {}
    notes: dict[str, str] = {}
    for name in selectors:
        try:
            if name != BRACKETS:
                build_selector(name, inferencer.model)
            counts[name] = Counter()
        except ImportError as error:
            notes[name] = str(error)
    for index in range(scenes):
        rng = random.Random(f"flmm pointing {seed} {index}")
        scene = render_scene(rng)
        chat = inferencer.chat(scene.image, [])
        for name, counter in counts.items():
            counter.update(
                _ask_typed(rng, chat, scene) if name == BRACKETS else _ask(chat, scene, name)
            )
    return [_build_row(name, scenes, counts.get(name), notes.get(name)) for name in selectors]


def find_mentions(text: str, scene: Scene) -> list[Mention]:
    """The names in a caption that the toy wrote.

    A name fits the objects that have its size, colour and shape; where these are several, those at
    the place that follows it, if any is.
    """
    mentions = []
    for match in _MENTION.finditer(text):
        size, color, shape, *place = match.groups()
        alike = [
            index
            for index, item in enumerate(scene.objects)
            if (item.color, item.shape) == (color, shape) and size in (None, item.size)
        ]
        placed = [i for i in alike if scene.objects[i].place(scene.image_size) == tuple(place)]
        objects = placed if placed and len(alike) > 1 else alike
        mentions.append(Mention(match.span(3), objects))
    return mentions


def count_hits(
    phrases: Sequence[PointedPhrase], mentions: Sequence[Mention], scene: Scene
) -> Counter[str]:
    """``COUNTS`` of the phrases that were chosen in one caption."""
    counts = Counter(phrases=len(phrases))
    covered: set[Span] = set()
    for phrase in phrases:
        start, end = phrase.span
        own = [item for item in mentions if item.noun[0] < end and item.noun[1] > start]
        covered.update(item.noun for item in own)
        if not own:
            counts["no_name"] += 1
        elif len(own) > 1 or len(own[0].objects) > 1:
            counts["name_several"] += 1
        elif not own[0].objects:
            counts["name_nothing"] += 1
        else:
            counts["name_one"] += 1
            counts["hit"] += _is_hit(phrase.mask, scene.objects[own[0].objects[0]].mask)
    named = {item.noun for item in mentions if len(item.objects) == 1}
    counts["missed"] = len(named - covered)
    return counts


def _ask(chat: Chat, scene: Scene, selector: str) -> Counter[str]:
    turn = chat.ask(PROMPT, select=[selector], begin=BEGIN)
    chat.undo()
    return count_hits(turn.phrases, find_mentions(turn.text, scene), scene)


def _ask_typed(rng: random.Random, chat: Chat, scene: Scene) -> Counter[str]:
    """A question for each object, as a user would type it; the answer does not matter."""
    counts: Counter[str] = Counter()
    for item in scene.objects:
        for sentence in pick_sentences(rng, scene, item, 1):
            question = QUESTION.format(sentence.text)
            (phrase,) = chat.ask(question, select=[BRACKETS], max_new_tokens=1).phrases
            chat.undo()
            hit = _is_hit(phrase.mask, item.mask)
            counts.update(phrases=1, name_one=1, hit=int(hit))
    return counts


def _is_hit(mask: np.ndarray, truth: np.ndarray) -> bool:
    return bool((mask & truth).sum() > MIN_IOU * (mask | truth).sum())


def _build_row(name: str, scenes: int, counts: Counter[str] | None, note: str | None) -> Row:
    if counts is None:
        return {"selector": name, "scenes": scenes, "note": note}
    fraction = counts["hit"] / counts["name_one"] if counts["name_one"] else None
    own = {key: counts[key] for key in COUNTS}
    return {"selector": name, "scenes": scenes, "hit_fraction": fraction, **own}


__all__ = ["COUNTS", "Mention", "count_hits", "find_mentions", "measure_pointing"]
