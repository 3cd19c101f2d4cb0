"""Words that the user marks: ``is [the red cup] left of [the plate]?``"""

from __future__ import annotations

from flmm.records import Span


def parse_brackets(text: str) -> tuple[str, list[Span]]:
    r"""Take the brackets out of a text.

    Brackets may nest (``[the lid of [the pot]]``); ``\[`` and ``\]`` stand for the signs
    themselves, every other backslash for itself.

    Returns:
        the text without them, and per pair the half-open character range of the words in it, blanks
        at its borders left out, in the order of their beginnings.

    Raises:
        ValueError: a bracket is not closed, not opened, or holds no visible character.
    """
    plain: list[str] = []
    opened: list[int] = []  # places in ``spans``
    spans: list[Span] = []
    characters = iter(enumerate(text))
    for place, character in characters:
        if character == "\\" and text[place + 1 : place + 2] in ("[", "]"):
            plain.append(next(characters)[1])
        elif character == "[":
            opened.append(len(spans))
            spans.append((len(plain), place))  # until it is closed: where it was opened
        elif character == "]":
            if not opened:
                raise ValueError(
                    f"the ']' after {text[:place][-20:]!r} was never opened: write \\] where the "
                    "sign itself is meant"
                )
            start, opened_at = spans[opened[-1]]
            words = "".join(plain[start:])
            if not words.strip():
                raise ValueError(
                    f"the brackets {text[opened_at : place + 1]!r} hold no word: mark at least one"
                )
            start += len(words) - len(words.lstrip())
            spans[opened.pop()] = (start, start + len(words.strip()))
        else:
            plain.append(character)
    if opened:
        opened_at = spans[opened[-1]][1]
        raise ValueError(
            f"the '[' before {text[opened_at + 1 :][:20]!r} is not closed: write \\[ where the "
            "sign itself is meant"
        )
    return "".join(plain), spans
