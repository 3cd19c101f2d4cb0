"""The frozen model itself says which objects its answer names."""

from __future__ import annotations

import re

from flmm.selectors.base import Answer
from flmm.selectors.clean import drop_unpointable
from flmm.structures import Span

QUESTION = (
    "List every object that your last answer names and that can be seen in the image. Copy the "
    "exact words of the answer, one object per line, and write nothing else."
)


class ReaderSelector:
    """Asks the reader, and finds the words of its reply in the answer.

    Args:
        question: of the aside; the conversation forgets it.
    """

    def __init__(self, question: str = QUESTION) -> None:
        self.question = question

    def select(self, answer: Answer) -> list[Span]:
        """See ``PhraseSelector``."""
        names = split_list(answer.ask(self.question))
        spans = [span for name in names for span in find_words(answer.text, name)]
        return drop_unpointable(answer.text, spans)


def split_list(reply: str) -> list[str]:
    """The items of a list: a line each, or between commas; bullets and numbers taken off."""
    items = []
    for line in re.split(r"[\n,;]+", reply):
        item = re.sub(r"^\s*(?:[-*•]|\d+[.)])\s*", "", line).strip().strip("\"'.`*")
        if item:
            items.append(item)
    return list(dict.fromkeys(items))


def find_words(text: str, words: str) -> list[Span]:
    """Every place of some words in a text, as whole words, whatever their case."""
    pattern = r"\s+".join(map(re.escape, words.split()))
    found = re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)
    return [match.span() for match in found]


__all__ = ["QUESTION", "ReaderSelector", "find_words", "split_list"]
