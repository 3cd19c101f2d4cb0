"""Replies of a reader that was asked to name the objects of its answer."""

import pytest

from flmm.selectors import ReaderSelector
from flmm.selectors.reader import QUESTION, find_words

ANSWER = "A man with a red hat rides the brown horse. A dog and a cat look at the horse's saddle."


@pytest.fixture
def choose(build_answer):
    def choose(reply, text=ANSWER):
        spans = ReaderSelector().select(build_answer(text, reply))
        assert spans == sorted(set(spans))
        return [text[slice(*span)] for span in spans]

    return choose


FOUR = ["A man", "the brown horse", "A dog", "a cat"]


@pytest.mark.parametrize(
    "reply",
    [
        "A man\nthe brown horse\nA dog\na cat",
        "- a man\n- the brown horse\n* a dog\n• a cat\n",
        "1. A man\n2. The brown horse\n3) a dog\n(4) a cat.",
        "a) A man\nb) the brown horse\nc) a dog\nd) a cat",
        "A man, the brown horse, a dog, a cat.",
        "A man, the brown horse, a dog and a cat",
        "The objects are: a man, the brown horse, a dog, and a cat.",
        "Sure! Here they are:\n\n**A man**\n**the brown horse**\n**A dog**\n**a cat**",
        '"A man"; "the brown horse"; "A dog"; "a cat"',
        "a man: on the left\nthe brown horse - in the middle\na dog (small)\na cat",
        '["A man", "the brown horse", "A dog", "a cat"]',
        '```json\n[\n "A man", "the brown horse", "A dog", "a cat"\n]\n```',
        '[{"bbox_2d": [1, 2, 30, 40], "label": "a man"}, {"bbox_2d": [0, 0, 9, 9], "label": '
        '"the brown horse"}, {"label": "a dog"}, {"label": "a cat"}, {"label": "the sad',
        '{"objects": ["a man", "the brown horse", {"name": "a dog"}, "a cat"]}',
        '{"a man": [1, 2], "the brown horse": [3, 4], "a dog": [], "a cat": null}',
        '{"label": "a man"}\n{"label": "the brown horse"}\n{"label": "a dog"}\n{"label": "a cat"}',
        "A man\na man\nA MAN\nthe  brown\thorse\na dog\na cat",
        "A man、the brown horse、a dog、a cat。",
    ],
)
def test_replies_of_every_form(reply, choose):
    assert choose(reply) == FOUR


@pytest.mark.parametrize(
    "reply", ["", "\n \n", "None.", "[]", "[1, 2]", "{}", "a zebra\na lion", "-"]
)
def test_a_reply_that_names_nothing_of_the_answer_chooses_nothing(reply, choose):
    assert choose(reply) == []


@pytest.mark.parametrize(
    ("reply", "phrases"),
    [
        # A thing of its own inside a longer name.
        ("a man with a red hat\na red hat", ["A man with a red hat", "a red hat"]),
        ("a man with a red hat\nhat", ["A man with a red hat", "hat"]),
        ("the horse's saddle\nthe horse", ["the horse's saddle"]),
        # The same thing said shorter, also where the shorter name stands elsewhere.
        ("the brown horse\nhorse", ["the brown horse", "horse"]),
        ("a man with a red hat\nman", ["A man with a red hat"]),
        ("red hat\nhat\nred", ["red hat"]),
        # Without the article that the answer has not.
        ("the dog\nsome cat", ["dog", "cat"]),
        # A joint name where the answer has it, pieces where it has not.
        ("dog and horse", ["horse", "dog", "horse"]),
        ("it\nthe image\nA dog", ["A dog"]),
        # The whole answer once more is no name.
        (ANSWER, []),
    ],
)
def test_nested_repeated_and_joint_names(reply, phrases, choose):
    assert choose(reply) == phrases


def test_every_place_of_a_repeated_name(choose):
    text = "a cup, a cup and the blue cups; cupcakes, a tea-cup"
    assert choose("a cup\nthe blue cups", text) == ["a cup", "a cup", "the blue cups"]
    assert choose("cup", text) == ["cup", "cup"]


def test_joint_names_that_the_answer_has():
    assert find_words("the salt and pepper shakers", "Salt  and pepper") == [(4, 19)]


@pytest.mark.parametrize(
    ("text", "reply", "phrases"),
    [
        ("salt and pepper shakers on a table", "salt and pepper shakers\na table", None),
        ("图中有一只猫和一只狗。", "一只猫\n一只狗", ["一只猫", "一只狗"]),
        ("图中有一只猫和一只狗。", "一只猫、一只狗", ["一只猫", "一只狗"]),
        ("The café's sign (C++) hangs.", "The café's sign\nC++", ["The café's sign", "C++"]),
    ],
)
def test_signs_and_other_scripts(text, reply, phrases, choose):
    assert choose(reply, text) == (phrases or reply.split("\n"))


def test_the_question_is_asked_and_can_be_another(build_answer):
    asked = []

    def ask(question):
        asked.append(question)
        return "a dog"

    answer = build_answer("a dog")
    object.__setattr__(answer, "ask", ask)
    assert ReaderSelector().select(answer) == ReaderSelector("Which?").select(answer) == [(0, 5)]
    assert asked == [QUESTION, "Which?"]
