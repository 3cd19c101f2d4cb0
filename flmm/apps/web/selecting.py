"""Which words of an answer the page points at: the visitor's choice among flmm's selectors.

For a reader that answers with a list and cannot name its items again when asked, and without spaCy,
the list's own items are the phrases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from flmm.conversation import BRACKETS
from flmm.records import Span
from flmm.selectors import Answer

_ITEM = re.compile(r"[^\s,;.:\n](?:[^,;.:\n]*[^\s,;.:\n])?")


class ListSelector:
    """The items of an answer that is a list: what stands between commas, stops and lines."""

    def select(self, answer: Answer) -> list[Span]:
        """See ``flmm.selectors.PhraseSelector``."""
        items = [match.span() for match in _ITEM.finditer(answer.text)]
        return [
            (start, end) for start, end in items if any(map(str.isalpha, answer.text[start:end]))
        ]


# What the page offers: label, selectors; None: those of the model's config.
CHOICES: dict[str, tuple[str, Sequence[Any] | None]] = {
    "config": ("the model's own choice", None),
    "list": ("parts between commas", (BRACKETS, ListSelector())),
    "noun_chunks": ("noun chunks (spaCy)", (BRACKETS, "noun_chunks")),
    "reader": ("objects the reader names", (BRACKETS, "reader")),
    "brackets": ("only words in [brackets]", (BRACKETS,)),
}


def find_selectors(name: str) -> Sequence[Any] | None:
    """The selectors of a choice, for ``Chat.stream``.

    Raises:
        ValueError: there is no such choice.
    """
    if name not in CHOICES:
        raise ValueError(f"there is no choice of words {name!r}: choose of {', '.join(CHOICES)}")
    return CHOICES[name][1]


__all__ = ["CHOICES", "ListSelector", "find_selectors"]
