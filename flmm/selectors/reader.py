"""The frozen model itself says which objects its answer names.

Replies to one more question come as readers please: lines, bullets, a sentence, JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from flmm.records import Span
from flmm.selectors.base import CJK, Answer, drop_unpointable

QUESTION = (
    "List every object that your last answer names and that can be seen in the image. Copy the "
    "exact words of the answer, one object per line, and write nothing else."
)
MAX_WORDS = 6  # a longer sentence of the answer, said once more, is no name
_OPENING = re.compile(r"[\[{]")
_FENCE = re.compile(r"```\w*")
_BULLET = re.compile(r"^\s*(?:[-*•·–—]+|#+|\(?(?:\d{1,3}|[a-z])[.):])\s+", re.IGNORECASE)
_BORDERS = " \t\"'`*_.,;:!?()[]{}“”‘’«»、，。；：（）"
_DETERMINER = r"(?:the|an?|some|its|his|her|their|my|your|our|this|that|these|those)\s"
_ARTICLE = re.compile(rf"^{_DETERMINER}+", re.IGNORECASE)
_COMMA = re.compile(r"\s*[,;、，；]\s*(?:(?:and|or|&)\s+)?", re.IGNORECASE)
_AND = re.compile(r"\s+(?:and|or|&)\s+", re.IGNORECASE)
_AND_ANOTHER = re.compile(rf"\s+(?:and|or|&)\s+(?={_DETERMINER})", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=\w\w\w[.!?])\s+(?=[A-Z])|(?<=[。！？])")  # not after "St."
_REMARK = re.compile(r":\s|\s[-–—]\s|\s\(|\.\s")
# Where one of these stands before the inner of two nested names, it is a thing of its own.
_LINK = re.compile(
    r"\b(?:of|with|without|in|on|at|by|to|for|from|near|under|over|above|below|behind|beside|"
    r"between|and|or|that|which|who|\w{3,}ing)\b|['’]s?\b",
    re.IGNORECASE,
)
# Keys under which replies in JSON put a name beside other things.
_NAME_KEYS = ("label", "name", "object", "phrase", "text")


class ReaderSelector:
    """Asks the reader a ``question`` aside, and finds the words of its reply in the answer."""

    def __init__(self, question: str = QUESTION) -> None:
        self.question = question

    def select(self, answer: Answer) -> list[Span]:
        """See ``PhraseSelector``; empty where the reply says no word of the answer as a name."""
        names = parse_names(answer.ask(self.question), answer.text)
        return drop_unpointable(answer.text, find_names(answer.text, names))


def parse_names(reply: str, said: str = "") -> list[list[str]]:
    """The names in a reply.

    A name is a string of JSON; else a line, without bullet and quotes; else, in a reply of one
    line, what stands between commas. "a dog and a cat" is two. Sentences of the answer, ``said``
    once more, are no names.

    Returns:
        per name its readings: the whole, then the pieces to be looked for where the answer does
        not say the whole (without a remark such as "cup: on the left", cut at commas and "and").
    """
    text = _FENCE.sub("\n", reply)
    items = _list_json_strings(text)
    if not items:
        lines = [line for part in text.splitlines() for line in _SENTENCE_END.split(part)]
        items = [_BULLET.sub("", line).strip(_BORDERS) for line in lines]
        items = [item for item in items if item and not _is_sentence(said, item)]
        if len(items) == 1:
            items = _COMMA.split(items[0])
    parts = (part.strip(_BORDERS) for item in items for part in _AND_ANOTHER.split(item))
    return [_list_readings(name) for name in dict.fromkeys(parts) if name]


def _list_readings(name: str) -> list[str]:
    pieces = [name]
    for border in (_REMARK, _COMMA, _AND):
        pieces = [part for piece in pieces for part in border.split(piece)]
    return [piece for piece in dict.fromkeys([name, *(p.strip(_BORDERS) for p in pieces)]) if piece]


def _list_json_strings(text: str) -> list[str]:
    """The names in all JSON lists and objects of a text, also of a list that breaks off."""
    names: list[str] = []
    start = 0
    while match := _OPENING.search(text, start):
        try:
            content, start = json.JSONDecoder().raw_decode(text, match.start())
            names += _walk(content)
        except ValueError:
            start = match.end()
    return names


def _walk(content: Any) -> Iterator[str]:
    """Strings of lists; of an object the name it has, else its strings, else its keys."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for item in content:
            yield from _walk(item)
    elif isinstance(content, dict):
        own = [content[key] for key in _NAME_KEYS if isinstance(content.get(key), str)][:1]
        inner = own or [name for value in content.values() for name in _walk(value)]
        yield from inner or content


def find_names(text: str, names: list[list[str]]) -> list[Span]:
    """Where a text says names, each at every place.

    A name inside a longer one is left out where both mean one thing ("cup" in "the red cup"), and
    kept where it is a thing of its own ("a hat" in "a man with a hat").
    """
    found: set[Span] = set()
    for whole, *pieces in names:
        places = find_words(text, whole)
        found.update(places or [place for piece in pieces for place in find_words(text, piece)])
    return [span for span in sorted(found) if not _is_part(text, span, found)]


def _is_sentence(text: str, words: str) -> bool:
    """Whether words are a whole sentence of a text, and longer than names are."""
    spans = find_words(text, words) if len(words.split()) > MAX_WORDS else []
    borders = [(text[:start].rstrip()[-1:], text[end:].lstrip()[:1]) for start, end in spans]
    return any(sign in ("", *".!?。！？") and last in ("", *".!?。！？") for sign, last in borders)


def _is_part(text: str, span: Span, found: set[Span]) -> bool:
    """Whether a longer name holds this one, and no link stands before it there."""
    return any(
        not _LINK.search(text[first : span[0]])
        for first, last in found - {span}
        if first <= span[0] and span[1] <= last
    )


def find_words(text: str, words: str) -> list[Span]:
    """Every place of a name in a text, as whole words, whatever their case and blanks.

    Where the text does not say it with its article, it is looked for without. Chinese and Japanese
    have no borders between words.
    """
    letter = rf"[^\W{CJK}]"
    for wanted in (words, _ARTICLE.sub("", words)):
        pattern = r"\s+".join(map(re.escape, wanted.split()))
        pattern = rf"(?<!{letter})(?<!\w-){pattern}(?!{letter})(?!-\w)"
        spans = [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]
        if spans:
            return spans
    return []
