"""How much a model reads at once, and the one error of texts that are too long for it.

In: how many tokens a text has and how many are there already. Out: nothing, or an error that names
both, before anything is computed. Not its duty: tokenising.
"""

from __future__ import annotations

from dataclasses import dataclass

_QUOTED_CHARACTERS = 40


class ContextFullError(ValueError):
    """The model's context has no room for a text; nothing was read, and nothing has changed."""


@dataclass(frozen=True)
class Context:
    """Room in a model's context.

    Attributes:
        limit: tokens that the model reads.
        held: tokens that are there already.
        holder: what holds them, in words.
        way_out: what a person can do.
    """

    limit: int
    held: int
    holder: str
    way_out: str

    def check(self, what: str, text: str, tokens: int, room: int = 0) -> None:
        """Refuse a ``text`` of so many ``tokens`` that does not fit with ``room`` behind it."""
        if self.held + tokens + room > self.limit:
            raise ContextFullError(
                f"{what} {_quote(text)} has {tokens} tokens, {self.holder} holds {self.held}, and "
                f"the model reads {self.limit} (max_position_embeddings): {self.way_out}"
            )


def _quote(text: str) -> str:
    """Its beginning, as one line in quotes."""
    start = " ".join(text[: 4 * _QUOTED_CHARACTERS].split())
    if len(start) > _QUOTED_CHARACTERS or len(text) > 4 * _QUOTED_CHARACTERS:
        start = start[:_QUOTED_CHARACTERS] + "…"
    return repr(start)
