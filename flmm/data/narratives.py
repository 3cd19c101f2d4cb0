"""Narratives of ``png_coco_*.json``: a caption, and which of its words mean which segments.

Data in: one published record. Data out: the caption as published with a character span, segment
ids and number for each grounded phrase. Segments are ids here; pixels are panoptic's duty.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from flmm.data.refer_files import check_fields, check_records
from flmm.records import Span

NARRATIVE_FIELDS = ("image_id", "caption", "segments")
SEGMENT_FIELDS = ("utterance", "segment_ids", "plural")


class GroundedPhrase(NamedTuple):
    """A noun phrase of a caption and the segments that it means.

    Attributes:
        utterance: as the record has it, often in lower case.
        span: its characters in the caption; None where the caption does not have the words.
        segment_ids: panoptic segments, as listed.
        plural: it means several things.
    """

    utterance: str
    span: Span | None
    segment_ids: tuple[int, ...]
    plural: bool


class Narrative(NamedTuple):
    """A caption, the id of its image, and its grounded phrases in the order of the text."""

    image_id: int
    caption: str
    phrases: tuple[GroundedPhrase, ...]


def parse_narrative(record: Any, where: str) -> Narrative:
    """A published record, checked.

    Args:
        record: ``{"image_id", "caption", "segments": [{"utterance", "segment_ids", "plural",
            "noun"}]}``; ids are digits in strings. The utterances, one after the other, make the
            caption; those with ``segment_ids`` are grounded.
        where: what messages call it.

    Raises:
        ValueError: a field is missing or an id is no number.
    """
    check_fields(record, NARRATIVE_FIELDS, where)
    segments = check_records(record["segments"], SEGMENT_FIELDS, f"{where}: a segment")
    caption = _check_text(record["caption"], "caption", where)
    if not all(isinstance(segment["segment_ids"], list) for segment in segments):
        raise ValueError(f"{where}: the segment_ids of a segment are no list")
    utterances = [_check_text(segment["utterance"], "utterance", where) for segment in segments]
    spans = find_spans(caption, utterances)
    phrases = [
        GroundedPhrase(
            utterance,
            span,
            tuple(_to_int(item, "segment_ids", where) for item in segment["segment_ids"]),
            bool(segment["plural"]),
        )
        for segment, utterance, span in zip(segments, utterances, spans)
        if segment["segment_ids"]
    ]
    return Narrative(_to_int(record["image_id"], "image_id", where), caption, tuple(phrases))


def find_spans(caption: str, utterances: Sequence[str]) -> list[Span | None]:
    """Where each utterance stands in the caption; case and spaces do not count.

    The utterances are laid along the caption in order. Where a record differs from its caption
    elsewhere (quotation marks, a corrected word), the longest common parts hold the rest in place.

    Args:
        caption: the text.
        utterances: its parts, in order.

    Returns:
        per utterance its half-open character range; None where its letters and digits are not in
        the caption at that place.
    """
    places = [place for place, char in enumerate(caption) for _ in _fold(char)]
    folded, parts = _fold(caption), [_fold(utterance) for utterance in utterances]
    joined = "".join(parts)
    located: list[int | None] = [*places]
    if folded != joined:
        located = [None] * len(joined)
        matcher = SequenceMatcher(None, folded, joined, autojunk=False)
        for ours, theirs, size in matcher.get_matching_blocks():
            located[theirs : theirs + size] = places[ours : ours + size]
    spans: list[Span | None] = []
    start = 0
    for part in parts:
        found = [place for place in located[start : start + len(part)] if place is not None]
        start += len(part)
        span = (found[0], found[-1] + 1) if found else None
        fits = span and (folded == joined or _is_same(caption[span[0] : span[1]], part))
        spans.append(span if fits else None)
    return spans


def _fold(text: str) -> str:
    """Without case and spaces; the same whether a text is folded whole or in parts."""
    return "".join(text.casefold().split())


def _is_same(text: str, other: str) -> bool:
    """The same letters and digits or, where there are none, the same signs."""
    text, other = _fold(text), _fold(other)
    words, other_words = ("".join(filter(str.isalnum, item)) for item in (text, other))
    return words == other_words and bool(words or text == other)


def _check_text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: the {field} is no text but {reprlib.repr(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: the {field} holds half of a character ({error})") from error
    return value


def _to_int(value: Any, field: str, where: str) -> int:
    """An id, which is written as a number or as its digits."""
    is_digits = isinstance(value, str) and value.isascii() and value.isdigit()
    if type(value) is not int and not is_digits:
        raise ValueError(f"{where}: {field} holds {reprlib.repr(value)}, which is no number")
    return int(value)
