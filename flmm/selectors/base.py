"""What a selector is: an answer in, the characters worth pointing at out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from flmm.records import Span


@dataclass(frozen=True)
class Answer:
    """What the reader said, and what a selector may ask about it.

    Attributes:
        text: the answer.
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


__all__ = ["Answer", "PhraseSelector"]
