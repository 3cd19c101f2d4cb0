"""What a selector is: an answer in, the characters worth pointing at out; and users' own marks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from flmm.records import Span

# For a character class: signs of Chinese, Japanese and Korean, each of which is a word's part.
CJK = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
# Pronouns, and words for the picture itself: "it", "the top left corner of the photo".
_PRONOUNS = (
    "i|me|my|mine|you|your|yours|he|him|his|she|her|hers|it|its|we|us|our|ours|they|them|their|"
    "theirs|who|whom|whose|which|what|this|that|these|those|there|here|"
    "(?:some|any|every|no)(?:one|thing|body)|none|nothing|ones?|each|both|all|some|any|many|few|"
    "several|others?|another|(?:my|your|him|her|it)self|(?:our|your|them)selves"
)
_PICTURE = "images?|pictures?|photos?|photographs?|screenshots?|scenes?|view"
_PART = (
    "(?:foreground|background|centre|center|middle|top|bottom|left|right|front|back|upper|lower|"
    "far|very|hand|side|corner|edge|half|part|area|portion)"
)
_UNPOINTABLE = re.compile(
    rf"(?:(?:the|an?|this|that|these|those)\s+)?"
    rf"(?:(?:whole|entire|given|provided|same)\s+)?"
    rf"(?:{_PRONOUNS}|{_PICTURE}|{_PART}(?:[\s-]+{_PART})*"
    rf"(?:\s+(?:of|in)\s+(?:the|this|that)\s+(?:{_PICTURE}))?)",
    re.IGNORECASE,
)
# What a phrase neither begins nor ends with.
_BORDERS = " \t\r\n.,;:!?\"'`*_()[]{}<>|-–—…“”‘’、，。"


@dataclass(frozen=True)
class Answer:
    """What the reader said, and what a selector may ask about it.

    Attributes:
        tokens: per token the half-open range of its characters in ``text``; where several
            make one character, each of them has it.
        read_hidden_states: gives ``[R, D]``, what the reader thought at each token, after the final
            norm.
        ask: gives the reader's reply to a further question, which the conversation forgets.
    """

    text: str
    tokens: list[Span]
    read_hidden_states: Callable[[], Tensor] = field(repr=False)
    ask: Callable[[str], str] = field(repr=False)


class PhraseSelector(Protocol):
    """Chooses the phrases of an answer."""

    def select(self, answer: Answer) -> list[Span]:
        """Half-open character ranges of ``answer.text``, in its order, each once; they may nest."""
        ...


def drop_unpointable(text: str, spans: Iterable[Span]) -> list[Span]:
    """Ranges in text order, each once, without pronouns and words for the picture itself.

    Blanks and punctuation at the borders of a range are left out of it.
    """
    kept = set()
    for start, end in spans:
        words = text[start:end]
        start += len(words) - len(words.lstrip(_BORDERS))
        end -= len(words) - len(words.rstrip(_BORDERS))
        if start < end and not _UNPOINTABLE.fullmatch(text[start:end]):
            kept.add((start, end))
    return sorted(kept)


def parse_brackets(text: str) -> tuple[str, list[Span]]:
    r"""Take the brackets out of a text: ``is [the red cup] left of [the plate]?``

    Brackets may nest (``[the lid of [the pot]]``); ``\[`` and ``\]`` stand for the signs
    themselves, every other backslash for itself. One that is not closed, not opened, or holds no
    visible character raises ValueError.

    Returns:
        the text without them, and per pair the half-open character range of the words in it, blanks
        at its borders left out, in the order of their beginnings.
    """
    plain: list[str] = []
    opened: list[int] = []  # places in ``spans``
    spans: list[Span] = []
    characters = iter(enumerate(text))
    for place, character in characters:
        if character == "\\" and text[place + 1 : place + 2] in ("[", "]"):
            plain.append(next(characters)[1])
        elif character == "[":
            opened.append(len(spans))
            spans.append((len(plain), place))  # until it is closed: where it was opened
        elif character == "]":
            if not opened:
                raise ValueError(
                    f"the ']' after {text[:place][-20:]!r} was never opened: write \\] where the "
                    "sign itself is meant"
                )
            start, opened_at = spans[opened[-1]]
            words = "".join(plain[start:])
            if not words.strip():
                raise ValueError(
                    f"the brackets {text[opened_at : place + 1]!r} hold no word: mark at least one"
                )
            start += len(words) - len(words.lstrip())
            spans[opened.pop()] = (start, start + len(words.strip()))
        else:
            plain.append(character)
    if opened:
        opened_at = spans[opened[-1]][1]
        raise ValueError(
            f"the '[' before {text[opened_at + 1 :][:20]!r} is not closed: write \\[ where the "
            "sign itself is meant"
        )
    return "".join(plain), spans
