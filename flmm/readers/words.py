"""The word that speaks for a phrase: its last one, which has seen the others."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from flmm.records import Span

# Scripts that leave no space between words, by the beginning of their characters' Unicode names.
_WITHOUT_SPACES = (
    *("CJK ", "HIRAGANA ", "KATAKANA ", "HALFWIDTH KATAKANA ", "KATAKANA-HIRAGANA "),
    *("IDEOGRAPHIC ", "THAI ", "LAO ", "KHMER ", "MYANMAR "),
)


def find_last_word(text: str) -> Span:
    """Characters of the last word of a text: from behind its last white space.

    Punctuation behind it is no part of it, unless there is nothing else. In Chinese, Japanese,
    Thai, Lao, Khmer and Burmese, where white space tells nothing, it is the last character.
    """
    end = len(text)
    while end and (text[end - 1].isspace() or unicodedata.category(text[end - 1])[0] == "P"):
        end -= 1
    end = end or len(text.rstrip())
    if end and _is_without_spaces(text[end - 1]):
        return end - 1, end
    start = max((place.end() for place in re.finditer(r"\s", text[:end])), default=0)
    return start, end


def find_last_tokens(tokenizer: Any, input_ids: Sequence[int]) -> Span:
    """Which tokens of a text have a part in the last word, half-open.

    Told by the tokens themselves, so that what was read and what was said are alike; several
    tokens of one character belong together.
    """
    texts = [_decode(tokenizer, input_ids[: end + 1]) for end in range(len(input_ids))]
    start, end = find_last_word(texts[-1])
    # Parts of a character may be decoded to more replacement signs than it has characters.
    ends = [min(map(len, texts[place:])) for place in range(len(texts))]
    inside = [
        place
        for place, (first, last) in enumerate(zip([0, *ends], ends))
        if (first < end and last > start) or start < first == last <= end
    ]
    return (inside[0], inside[-1] + 1) if inside else (0, len(input_ids))


def _decode(tokenizer: Any, input_ids: Sequence[int]) -> str:
    return tokenizer.decode(list(input_ids), clean_up_tokenization_spaces=False)


def _is_without_spaces(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_WITHOUT_SPACES)
