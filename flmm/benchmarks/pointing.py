"""Do words point at what they name? Counted on drawn scenes that nothing was trained on.

The toy writes a caption of each scene, every selector chooses phrases in it, and each phrase's mask
is compared with the object that its words name. Words that name nothing (the toy's mistake) or fit
several objects are counted apart. For the brackets a user types each object's phrase in a question.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flmm.benchmarks.harness import TINY_CONFIG, BenchmarkSettings, Row
from flmm.conversation import BRACKETS, Chat, PointedPhrase
from flmm.inferencer import GroundingInferencer
from flmm.records import Span
from flmm.selectors import build_selector
from flmm.toy.shape_sentences import pick_sentences
from flmm.toy.shapes import COLORS, SHAPES, SIZES, Scene, render_scene

PROMPT, BEGIN = "Please give me a description of the image.", "a"
SELECTORS = (BRACKETS, "keywords", "reader", "noun_chunks")
MIN_IOU = 0.5
# In which order the counts stand in a row.
COUNTS = ("phrases", "name_one", "hit", "name_nothing", "name_several", "no_name", "missed")
_MENTION = re.compile(
    rf"(?:({'|'.join(SIZES)}) )?({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b"
    r"(?: (top|middle|bottom) (left|center|right)\b)?"
)


@dataclass(frozen=True)
class Mention:
    """A name in a caption: characters of its last word, and places of the objects that it fits."""

    noun: Span
    objects: list[int]


def point(
    settings: BenchmarkSettings, scenes: int = 200, selectors: Sequence[str] = SELECTORS
) -> list[Row]:
    """One row per selector; what is not installed has a ``note`` instead of figures.

    Of its ``phrases``, ``name_one`` object, ``name_nothing`` in the scene, ``name_several`` things,
    or hold ``no_name`` at all; ``hit``: of those that name one, how many masks have an IoU above
    0.5 with it; ``missed``: names of one object that no phrase covers.
    """
    inferencer = GroundingInferencer(TINY_CONFIG, device=settings.torch_device)
    counts: dict[str, Counter[str]] = {}
    rows: dict[str, Row] = {name: {"selector": name, "scenes": scenes} for name in selectors}
    for name in selectors:
        try:
            if name != BRACKETS:
                build_selector(name, inferencer.model)
            counts[name] = Counter()
        except ImportError as error:
            rows[name]["note"] = str(error)
    for index in range(scenes):
        rng = random.Random(f"flmm pointing 2024 {index}")
        scene = render_scene(rng)
        chat = inferencer.chat(scene.image, [])
        for name, counter in counts.items():
            is_typed = name == BRACKETS
            counter.update(_ask_typed(rng, chat, scene) if is_typed else _ask(chat, scene, name))
    for name, counter in counts.items():
        named = counter["name_one"]
        rows[name]["hit_fraction"] = counter["hit"] / named if named else None
        rows[name] |= {key: counter[key] for key in COUNTS}
    return list(rows.values())


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
            question = f"Where is [{sentence.text}]?"
            (phrase,) = chat.ask(question, select=[BRACKETS], max_new_tokens=1).phrases
            chat.undo()
            counts.update(phrases=1, name_one=1, hit=int(_is_hit(phrase.mask, item.mask)))
    return counts


def _is_hit(mask: np.ndarray, truth: np.ndarray) -> bool:
    return bool((mask & truth).sum() > MIN_IOU * (mask | truth).sum())
