"""Brackets typed by a user."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flmm.selectors import parse_brackets


def parse(text):
    plain, spans = parse_brackets(text)
    return plain, [plain[slice(*span)] for span in spans]


@pytest.mark.parametrize(
    ("text", "plain", "phrases"),
    [
        ("where is the cup?", "where is the cup?", []),
        ("", "", []),
        ("is [the red cup] left of [the plate]?", None, ["the red cup", "the plate"]),
        ("[cup]", "cup", ["cup"]),
        ("[the lid of [the pot]] and [it]", None, ["the lid of the pot", "the pot", "it"]),
        ("[[a] and [b]]", "a and b", ["a and b", "a", "b"]),
        ("[a cup], [a cup]", "a cup, a cup", ["a cup", "a cup"]),
        ("what is [ the cup ]?", "what is  the cup ?", ["the cup"]),
        (r"what does a\[0\] mean?", "what does a[0] mean?", []),
        (r"[the \[x\] sign]", "the [x] sign", ["the [x] sign"]),
        (r"[\]]", "]", ["]"]),
        (r"C:\new\ [cup]\d", "C:\\new\\ cup\\d", ["cup"]),
        ("[红色的杯子]在哪里", "红色的杯子在哪里", ["红色的杯子"]),
        ("ends with a backslash \\", "ends with a backslash \\", []),
    ],
)
def test_words_and_places(text, plain, phrases):
    found = parse(text)
    assert found[1] == phrases
    assert found[0] == (text.replace("[", "").replace("]", "") if plain is None else plain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("where is [the cup?", r"the '\[' before 'the cup\?' is not closed: write \\\[ where"),
        ("[a [b]", r"the '\[' before 'a \[b\]' is not closed"),
        ("where is the cup]?", r"the '\]' after 'where is the cup' was never opened: write \\\]"),
        ("[a]]", r"the '\]' after '\[a\]' was never opened"),
        ("is [] red?", r"the brackets '\[\]' hold no word: mark at least one"),
        ("[the cup [ ]]", r"the brackets '\[ \]' hold no word"),
        ("a [\u3000\n] b", "hold no word"),
    ],
)
def test_mistakes_are_told(text, message):
    with pytest.raises(ValueError, match=message):
        parse_brackets(text)


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.text(min_size=1, max_size=4), lambda inner: st.lists(inner, min_size=1)))
def test_what_is_written_is_what_is_read(tree):
    """Any tree of texts, written with brackets for lists and escaped signs, comes back."""

    def write(node):
        if isinstance(node, str):  # a letter behind: a backslash at the end would hide a bracket
            text = node.replace("[", r"\[").replace("]", r"\]") + "x"
            return text, node + "x", []
        parts = [write(item) for item in node]
        plain = "".join(part[1] for part in parts)
        return (
            "[" + "".join(part[0] for part in parts) + "]",
            plain,
            [plain.strip()] + [phrase for part in parts for phrase in part[2]],
        )

    text, plain, phrases = write(tree)
    assert parse(text) == (plain, phrases)
