"""Selectors in conversations with the embedded model, and the benchmark that counts their hits."""

import random

import numpy as np
import pytest

from flmm import Continuation, GroundingInferencer
from flmm.benchmarks.harness import BenchmarkSettings
from flmm.benchmarks.pointing import (
    BEGIN,
    PROMPT,
    count_hits,
    find_mentions,
)
from flmm.benchmarks.pointing import (
    point as measure_pointing,
)
from flmm.config import load_config
from flmm.conversation import PointedPhrase
from flmm.results import GroundedPhrase
from flmm.toy.shapes import Scene, ShapeObject, render_scene

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
LARGE = "configs/qwen2_5_vl/qwen2_5_vl_3b_unet_sam_l_refcoco.py"


@pytest.fixture(scope="module")
def inferencer():
    return GroundingInferencer(TINY, device="cpu")


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(random.Random(seed), min_objects=2) for seed in range(100, 105)]


def list_phrases(turn, role="answer"):
    return [phrase.text for phrase in turn.phrases if phrase.role == role]


def test_configs_name_their_selectors(inferencer):
    assert inferencer.selectors == ("brackets", "keywords")
    assert load_config(LARGE).selectors == ("brackets", "reader")


def test_the_embedded_selector_finds_every_name_that_the_toy_writes(inferencer, scenes):
    exact = []
    for scene in scenes:
        turn = inferencer.chat(scene.image).ask(PROMPT, begin=BEGIN)
        names = [" ".join(part.split()[1:-2]) for part in turn.text.rstrip(".").split(", ")]
        found = list_phrases(turn)  # repeated ones at each of their places
        assert [name.split()[-2:] for name in found] == [name.split()[-2:] for name in names]
        exact += [one == other for one, other in zip(found, names)]
        assert [phrase.span for phrase in turn.phrases] == sorted({p.span for p in turn.phrases})
    assert np.mean(exact) > 0.9


def test_what_is_thought_in_a_conversation_is_what_was_trained_on(inferencer, scenes):
    vlm = inferencer.model.vlm
    chat = inferencer.chat(scenes[0].image, [])
    turn = chat.ask(PROMPT, begin=BEGIN)
    seen = vlm.attend(vlm.prefill(scenes[0].image, PROMPT), [Continuation(turn.text)])
    states = chat.dialogue.read_hidden_states(chat.dialogue.turns[0].answer)
    assert (states - seen.hidden_states[0]).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("The blue squares, the red circle top left on the", ["blue squares", "red circle"]),
        ("a small red circle top left, a small red circle top left", ["small red circle"] * 2),
        ("The image, it", []),
    ],
)
def test_groups_are_one_phrase_and_pronouns_none(inferencer, scenes, said, names):
    chat = inferencer.chat(scenes[0].image, ["keywords"])
    turn = chat.ask(PROMPT, begin=said, max_new_tokens=0)
    assert turn.text == said
    assert [phrase.removeprefix("the ") for phrase in list_phrases(turn)] == names
    assert all(phrase.mask.shape == scenes[0].image_size for phrase in turn.phrases)


def test_the_reader_is_asked_aside_and_forgets_it(inferencer, scenes):
    chat = inferencer.chat(scenes[0].image, ["reader"])
    turn = chat.ask(PROMPT, begin=BEGIN)
    reply = chat._ask_aside("List them.")
    assert isinstance(reply, str) and len(chat.turns) == len(chat.dialogue.turns) == 1
    assert chat.dialogue.turns[0].answer[1] == len(chat.dialogue)
    assert all(name in turn.text for name in list_phrases(turn))


def test_the_benchmark_counts_what_the_toy_reaches():
    brackets, keywords, nouns = measure_pointing(
        BenchmarkSettings(), scenes=4, selectors=("brackets", "keywords", "noun_chunks")
    )
    for row in (brackets, keywords):
        assert row["scenes"] == 4 and row["phrases"] > 7
        parts = ("name_one", "name_nothing", "name_several", "no_name")
        assert sum(row[part] for part in parts) == row["phrases"]
        assert row["hit_fraction"] == row["hit"] / row["name_one"] > 0.6
    assert keywords["missed"] == keywords["no_name"] == 0
    assert brackets["name_one"] == brackets["phrases"]
    assert "is not installed" in nouns.get("note", "") or nouns["phrases"] > 0


def place(shape, color, size, x, y):
    """An object of a scene of 90 x 90 px, whose mask is the cell of a 3 x 3 grid it lies in."""
    mask = np.zeros((90, 90), bool)
    mask[30 * y : 30 * y + 30, 30 * x : 30 * x + 30] = True
    center = (30 * x + 15, 30 * y + 15)
    return ShapeObject(shape, color, size, center, 10, 0, (0, 0, 0), 0, 0.5, mask)


def test_names_are_counted_by_what_they_fit():
    image = np.zeros((90, 90, 3), np.uint8)
    items = [
        place("star", "red", "big", 0, 0),
        place("star", "red", "small", 2, 0),
        place("ring", "blue", "big", 1, 1),
    ]
    scene = Scene(image, items)
    text = (
        "a big red star top left, a red star top right, a red star bottom left, a red star, "
        "a blue ring bottom left, a small blue ring middle center, nothing else."
    )
    mentions = find_mentions(text, scene)
    # The place tells alike ones apart; a wrong place of the only one does not matter.
    assert [item.objects for item in mentions] == [[0], [1], [0, 1], [0, 1], [2], []]

    def point(words, mask, start=0):
        first = text.index(words, start)
        span = (first, first + len(words))
        return PointedPhrase.from_phrase(
            GroundedPhrase.from_mask(words, mask, 1.0), span, "answer", 0
        )

    nothing = np.zeros((90, 90), bool)
    phrases = [
        point("big red star", items[0].mask),
        point("red star top", items[0].mask, 20),  # the other one is meant
        point("red star", items[1].mask, text.index("bottom") - 12),
        point("blue ring", items[2].mask | items[0].mask),  # IoU of exactly one half
        point("small blue ring", nothing),
        point("nothing else", nothing),
        point("big red star top left, a red star", nothing),
    ]
    counts = count_hits(phrases, mentions, scene)
    assert counts == dict(
        phrases=7, name_one=3, hit=1, name_several=2, name_nothing=1, no_name=1, missed=0
    )
    assert count_hits(phrases[:1], mentions, scene)["missed"] == 2
