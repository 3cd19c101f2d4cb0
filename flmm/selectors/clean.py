"""Words that no selector should point at."""

from __future__ import annotations

import re
from collections.abc import Iterable

from flmm.structures import Span

_PRONOUNS = (
    "i|me|you|he|him|she|her|it|we|us|they|them|this|that|these|those|who|whom|which|what|"
    "someone|something|anyone|anything|everyone|everything|nothing|nobody|there|here|one|ones|"
    "each|both|all|some|any|others|another|itself|himself|herself|themselves"
)
_WHOLE = "image|picture|photo|photograph|photographs|images|pictures|photos|scene|view"
_SIDES = "foreground|background|center|centre|middle|top|bottom|left|right|side|front|back"
_UNPOINTABLE = re.compile(
    rf"(?:(?:the|an?|this|that)\s+)?(?:{_PRONOUNS}|(?:{_WHOLE})|"
    rf"(?:(?:left|right|top|bottom|upper|lower)\s+)?(?:{_SIDES})(?:\s+of\s+the\s+(?:{_WHOLE}))?)",
    re.IGNORECASE,
)


def drop_unpointable(text: str, spans: Iterable[Span]) -> list[Span]:
    """Ranges in text order, each once, without pronouns and words for the picture itself.

    Blanks at the borders of a range are left out of it.
    """
    kept = set()
    for start, end in spans:
        words = text[start:end]
        start, end = (
            start + len(words) - len(words.lstrip()),
            end - len(words) + len(words.rstrip()),
        )
        if start < end and not _UNPOINTABLE.fullmatch(text[start:end]):
            kept.add((start, end))
    return sorted(kept)


__all__ = ["drop_unpointable"]
