"""What a conversation hands out: turns, their tokens, and the words that point.

Nothing is computed here; every record says which question or answer, and which picture, it is of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flmm.records import Span
from flmm.results import GroundedPhrase


@dataclass(frozen=True, kw_only=True)
class PointedPhrase(GroundedPhrase):
    """Words of a turn and the pixels they point at.

    Attributes:
        span: half-open character range of ``text``, in the turn's question or answer.
        role: ``"question"`` or ``"answer"``.
        image: which picture of the conversation they point into, from 0.
    """

    span: Span
    role: str
    image: int

    def to_coco(
        self, image_id: int | str | None = None, annotation_id: int | None = None
    ) -> dict[str, Any]:
        """As :meth:`GroundedPhrase.to_coco`, with ``span``, ``role`` and ``image``."""
        told = {"span": list(self.span), "role": self.role, "image": self.image}
        return super().to_coco(image_id, annotation_id) | told


@dataclass(frozen=True)
class TurnToken:
    """A token of a turn.

    Attributes:
        place: its position in the conversation.
        span: its characters in the turn's question or text.
        text: these characters.
        role: ``"question"`` or ``"answer"``.
    """

    place: int
    span: Span
    text: str
    role: str


@dataclass(eq=False)
class ChatTurn:
    """A question, its answer, and where their words point.

    Attributes:
        question: as the reader read it, brackets removed.
        text: the answer.
        phrases: the question's, then the answer's, each in text order.
        tokens: of question and answer.
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
