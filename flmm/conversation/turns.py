"""What a conversation hands out: turns, their tokens, the words that point; text as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flmm.records import Span
from flmm.results import GroundedPhrase

_HALF = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer writes for half a character
_MAX_HALVES = 3  # a character has at most four bytes: what is before these three stays as it is
_WINDOW, _CONTEXT = 32, 8  # tokens that are decoded together; what a new window keeps of the last


@dataclass(frozen=True, kw_only=True)
class PointedPhrase(GroundedPhrase):
    """Words of a turn and the pixels they point at."""

    span: Span  # half-open character range of ``text``, in the turn's question or answer
    role: str  # "question" or "answer"
    image: int  # which picture of the conversation they point into, from 0

    @classmethod
    def from_phrase(
        cls, phrase: GroundedPhrase, span: Span, role: str, image: int
    ) -> PointedPhrase:
        """A phrase that was grounded in picture ``image``, where its words stand."""
        return cls(**vars(phrase), span=span, role=role, image=image)

    def to_coco(
        self, image_id: int | str | None = None, annotation_id: int | None = None
    ) -> dict[str, Any]:
        """As :meth:`GroundedPhrase.to_coco`, with ``span``, ``role`` and ``image``."""
        told = {"span": list(self.span), "role": self.role, "image": self.image}
        return super().to_coco(image_id, annotation_id) | told


@dataclass(frozen=True)
class TurnToken:
    """A token of a turn."""

    place: int  # in the conversation
    span: Span  # of its characters, ``text``, in the turn's question or answer
    text: str
    role: str  # "question" or "answer"


@dataclass(eq=False)
class ChatTurn:
    """A question, its answer, and where their words point.

    Attributes:
        question: as the reader read it, brackets removed; ``text`` is the answer.
        phrases: the question's, then the answer's, each in text order.
        end_reason: ``"end"`` of the answer; ``"max_new_tokens"`` or ``"context"`` where it was cut;
            ``None`` where it was stopped.
        notes: why words that were to be chosen are not pointed at, a sentence each.
    """

    question: str
    text: str
    phrases: list[PointedPhrase]
    tokens: list[TurnToken] = field(repr=False)
    end_reason: str | None
    notes: list[str] = field(default_factory=list)

    def to_coco(self) -> list[dict[str, Any]]:
        """One record per phrase, see :meth:`PointedPhrase.to_coco`."""
        return [phrase.to_coco() for phrase in self.phrases]


def find_places(tokens: Sequence[TurnToken], role: str, span: Span) -> Span | None:
    """Half-open range of the tokens that overlap characters of a turn; ``None``: there is none."""
    inside = [
        token.place
        for token in tokens
        if token.role == role and token.span[0] < span[1] and token.span[1] > span[0]
    ]
    return (inside[0], inside[-1] + 1) if inside else None


class TextDecoder:
    """Tokens to text as they come; half a character waits for its other half.

    A token costs the decoding of a few tokens before it, however long the text is.

    Attributes:
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
