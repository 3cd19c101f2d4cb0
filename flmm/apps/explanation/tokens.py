"""The tokens of a conversation: which of them a word is, and which make a word.

Out: one list of tokens over all turns, and half-open index ranges in it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flmm.conversation import ChatTurn, TurnToken, find_places
from flmm.records import Span


@dataclass(frozen=True)
class ExplainedToken(TurnToken):
    """A token of a conversation, of the ``turn`` with that number, from 0.

    ``text`` is empty where a character is made of several tokens and this is not the last.
    """

    turn: int


def list_tokens(turns: Sequence[ChatTurn]) -> list[ExplainedToken]:
    """All tokens of questions and answers, in the order in which they were read."""
    return [
        ExplainedToken(token.place, token.span, token.text, token.role, number)
        for number, turn in enumerate(turns)
        for token in turn.tokens
    ]


def find_text(
    turns: Sequence[ChatTurn],
    tokens: Sequence[ExplainedToken],
    text: str,
    turn: int | None = None,
    role: str | None = None,
) -> list[Span]:
    """Of each place where words stand the tokens of its characters; see ``ExplainedChat.find``."""
    index = {token.place: number for number, token in enumerate(tokens)}
    found = []
    for number, item in enumerate(turns):
        for part, written in (("question", item.question), ("answer", item.text)):
            if turn not in (None, number) or role not in (None, part):
                continue
            for span in _find_words(written, text.strip()):
                places = find_places(item.tokens, part, span)
                if places is not None:
                    found.append(_widen(tokens, index[places[0]], index[places[1] - 1] + 1))
    return found


def group_characters(tokens: Sequence[ExplainedToken]) -> list[Span]:
    """Index ranges of the tokens that share a character, most of them of one token."""
    starts = [
        index
        for index, token in enumerate(tokens)
        if not (index and _share_character(tokens[index - 1], token))
    ]
    return list(zip(starts, [*starts[1:], len(tokens)]))


def group_words(tokens: Sequence[ExplainedToken]) -> list[Span]:
    """Index ranges of the tokens that make a word each; those of mere marks are left out.

    A word goes on as long as letters touch; Chinese and Japanese, which leave no blanks, give one
    word per token.
    """
    words: list[Span] = []
    for start, end in group_characters(tokens):
        if words and _goes_on(tokens[slice(*words[-1])], tokens[start:end]):
            words[-1] = words[-1][0], end
        else:
            words.append((start, end))
    return [word for word in words if any(map(str.isalnum, join_text(tokens[slice(*word)])))]


def join_text(tokens: Sequence[ExplainedToken]) -> str:
    """The characters of neighbouring tokens, each once, without blanks at the ends."""
    text, end = "", -1
    for token in tokens:
        text += token.text[max(0, end - token.span[0]) :]
        end = max(end, token.span[1])
    return text.strip()


def _widen(tokens: Sequence[ExplainedToken], start: int, end: int) -> Span:
    """A range with all tokens of its first character."""
    while start and _share_character(tokens[start - 1], tokens[start]):
        start -= 1
    return start, end


def _find_words(written: str, text: str) -> Iterator[Span]:
    for match in re.finditer(re.escape(text), written, re.IGNORECASE):
        start, end = match.span()
        if not (_touch(written[start - 1 : start], text) or _touch(text, written[end : end + 1])):
            yield start, end


def _goes_on(before: Sequence[ExplainedToken], tokens: Sequence[ExplainedToken]) -> bool:
    """Whether tokens go on with the word of those before."""
    same = (before[0].turn, before[0].role) == (tokens[0].turn, tokens[0].role)
    left, right = ("".join(token.text for token in group) for group in (before, tokens))
    return same and _touch(left, right)


def _share_character(before: ExplainedToken, token: ExplainedToken) -> bool:
    """Whether two neighbours hold bytes of one character.

    In a question such tokens have the same characters; in an answer the last one has them.
    """
    same = (before.turn, before.role) == (token.turn, token.role)
    return same and (not before.text or token.span[0] < before.span[1])


def _touch(left: str, right: str) -> bool:
    """Whether two texts side by side are one word at their border."""
    return bool(left and right) and _is_joining(left[-1]) and _is_joining(right[0])


def _is_joining(letter: str) -> bool:
    """A letter or digit of a script that sets blanks between its words."""
    return letter.isalnum() and unicodedata.east_asian_width(letter) not in "WF"
