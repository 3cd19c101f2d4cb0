"""Words that no selector should point at: pronouns, and words for the picture itself.

"It", "something", "the image", "the top left corner of the photo" name no object of their own. A
user who puts them into brackets means them; these are never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from flmm.records import Span

# For a character class: signs of Chinese, Japanese and Korean, each of which is a word's part.
CJK = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
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


__all__ = ["CJK", "drop_unpointable"]
