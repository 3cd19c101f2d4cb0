"""Tokens to text as they come, and which characters each of them has a part in.

In: token ids, one after the other. Out: pieces of text in which no half of a character stands. A
token costs the decoding of a few tokens before it, however long the text is.
"""

from __future__ import annotations

from typing import Any

from flmm.records import Span

_HALF = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer writes for half a character
_MAX_HALVES = 3  # a character has at most four bytes: what is before these three stays as it is
_WINDOW, _CONTEXT = 32, 8  # tokens that are decoded together; what a new window keeps of the last


class TextDecoder:
    """Tokens to text as they come; half a character waits for its other half.

    Attributes:
        text: so far.
        offsets: per token the characters it has a part in, as the tokenizer's own offsets: several
            tokens of one character all have that character.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.text = ""
        self.offsets: list[Span] = []
        self._tokenizer = tokenizer
        self._window: list[int] = []  # the last tokens
        self._known = 0  # characters of theirs that stand in the text
        self._waiting: list[int] = []  # tokens that end within a character

    def add(self, token: int) -> str:
        """The text that one more token adds, maybe none."""
        self._window.append(token)
        text = self._decode()
        halves = min(len(text) - len(text.rstrip(_HALF)), _MAX_HALVES)
        piece = text[self._known : len(text) - halves]
        self._known += len(piece)
        start = len(self.text)
        self.text += piece
        if piece:
            self._settle(start + 1)
        self.offsets.append((start, len(self.text)))
        if halves:
            self._waiting.append(len(self.offsets) - 1)
        elif len(self._window) >= _WINDOW:
            del self._window[:-_CONTEXT]
            self._known = len(self._decode())
        return piece

    def finish(self) -> str:
        """What was waiting: a replacement sign where the last character is incomplete."""
        rest = self._decode()[self._known :]
        self.text += rest
        self._settle(len(self.text))
        return rest

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=True)

    def _settle(self, end: int) -> None:
        """Tokens that waited have a part in the characters up to ``end``."""
        for place in self._waiting:
            self.offsets[place] = (self.offsets[place][0], end)
        self._waiting = []
