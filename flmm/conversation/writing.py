"""Tokens to text as they come, and which characters each of them has a part in.

In: token ids, one after the other. Out: the text so far, in which no half of a character stands.
"""

from __future__ import annotations

from typing import Any

from flmm.records import Span

_HALF = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer writes for half a character
_MAX_HALVES = 3  # a character has at most four bytes: what is before these three stays as it is


class TextDecoder:
    """Tokens to text as they come; half a character waits for its other half.

    Attributes:
        offsets: per token the characters it has a part in, as the tokenizer's own offsets: several
            tokens of one character all have that character.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._text = ""
        self._waiting: list[int] = []  # tokens that end within a character
        self.offsets: list[Span] = []

    def add(self, *tokens: int) -> str:
        """The text so far."""
        for token in tokens:
            self._ids.append(token)
            text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
            waiting = len(text) - len(text.rstrip(_HALF))
            self._extend(text[: len(text) - min(waiting, _MAX_HALVES)])
            if text.endswith(_HALF):
                self._waiting.append(len(self.offsets) - 1)
        return self._text

    def finish(self) -> str:
        """The whole text, with a replacement sign where the last character is incomplete."""
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        for place in self._waiting:
            self.offsets[place] = (self.offsets[place][0], len(text))
        self._text, self._waiting = text, []
        return text

    def _extend(self, text: str) -> None:
        """One token more; those that waited have a part in the first new character."""
        start = len(self._text)
        if len(text) > start:
            for place in self._waiting:
                self.offsets[place] = (self.offsets[place][0], start + 1)
            self._text, self._waiting = text, []
        self.offsets.append((start, len(self._text)))


__all__ = ["TextDecoder"]
