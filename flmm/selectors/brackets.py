"""Words that the user marks: ``is [the red cup] left of [the plate]?``"""

from __future__ import annotations

from flmm.structures import Span


def parse_brackets(text: str) -> tuple[str, list[Span]]:
    r"""Take the brackets out of a text.

    Brackets may nest; ``\[`` and ``\]`` stand for the characters themselves.

    Returns:
        the text without them, and per pair the half-open character range of what it held, in the
        order of their beginnings.

    Raises:
        ValueError: a bracket is not closed, not opened, or holds no visible character.
    """
    plain: list[str] = []
    open_at: list[tuple[int, int]] = []  # place in the spans, character
    spans: list[Span] = []
    escaped = False
    for character in text:
        if escaped:
            plain += character if character in "[]" else "\\" + character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == "[":
            open_at.append((len(spans), len(plain)))
            spans.append((0, 0))
        elif character == "]":
            if not open_at:
                raise ValueError(f"a ']' in {text!r} has no '[' before it: write \\] for the sign")
            place, start = open_at.pop()
            if not "".join(plain[start:]).strip():
                raise ValueError(f"a pair of brackets in {text!r} is empty: put words into it")
            spans[place] = (start, len(plain))
        else:
            plain.append(character)
    if escaped:
        plain.append("\\")
    if open_at:
        raise ValueError(f"a '[' in {text!r} is not closed: write \\[ for the sign")
    return "".join(plain), spans


__all__ = ["parse_brackets"]
