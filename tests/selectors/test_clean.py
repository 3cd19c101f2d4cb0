"""What no selector points at, and what must stay."""

import pytest

from flmm.selectors.base import drop_unpointable

NO_THINGS = (
    "it|It|they|something|nobody|this|these|the other|both|one|his|themselves|who|there|"
    "the image|The picture|an image|this photo|these images|the given image|the whole scene|"
    "the photograph|the foreground|the background of the image|the left|the left side|"
    "the top left|the top-left corner|the bottom right corner of the picture|the center|"
    "the right-hand side|the middle of the photo|...| \n"
)
THINGS = (
    "the cup|a picture frame|the photographer|two photographs|the left dog|the top of the table|"
    "the man in the background|a camera image of a cat|the upper lip|leftover pizza|an item|"
    "this dog|their house|bottom shelf|one dog|the blue squares|图片里的猫"
)


def keep(text):
    return [text[slice(*span)] for span in drop_unpointable(text, [(0, len(text))])]


@pytest.mark.parametrize("words", NO_THINGS.split("|"))
def test_pronouns_and_the_picture_itself_are_no_phrases(words):
    assert keep(words) == []


@pytest.mark.parametrize("words", THINGS.split("|"))
def test_things_are(words):
    assert keep(words) == [words]


def test_ranges_come_in_order_once_and_without_signs_around_them():
    text = 'It shows "a cat", (the dog) and the image.'
    words = ("(the dog) ", '"a cat",', "It", "the image.", "(the dog) ")
    spans = drop_unpointable(text, [(text.index(w), text.index(w) + len(w)) for w in words])
    assert [text[slice(*span)] for span in spans] == ["a cat", "the dog"]


def test_nested_and_repeated_ranges_stay():
    text = "a man with a hat, a man"
    spans = [(0, 16), (11, 16), (18, 23)]
    assert drop_unpointable(text, reversed(spans)) == spans
