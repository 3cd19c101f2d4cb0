"""Panoptic Narrative Grounding as grounding samples: captions of which some words mean segments.

Segments are ids here; pixels are panoptic's duty.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from mmengine.fileio import join_path
from mmengine.logging import print_log
from mmengine.utils import is_abs

from flmm.data.grounding_dataset import GroundingDataset, draw_at_most
from flmm.data.masks import PanopticImage, load_panoptic
from flmm.data.refer_files import check_fields, check_records, load_json
from flmm.records import Continuation, Span
from flmm.registry import DATASETS

NARRATIVE_FIELDS = ("image_id", "caption", "segments")
SEGMENT_FIELDS = ("utterance", "segment_ids", "plural")
# One grounded phrase as the loaded records hold it: plain, for pickling.
Phrase = tuple[str, int, int, tuple[int, ...], tuple[str, str]]


class GroundedPhrase(NamedTuple):
    """A noun phrase of a caption, the segments that it means, and whether these are several things.

    Attributes:
        utterance: as the record has it, often in lower case.
        span: its characters in the caption; None where the caption does not have the words.
    """

    utterance: str
    span: Span | None
    segment_ids: tuple[int, ...]
    plural: bool


class Narrative(NamedTuple):
    """A published caption, the id of its image, and its phrases in the order of the text."""

    image_id: int
    caption: str
    phrases: tuple[GroundedPhrase, ...]


@DATASETS.register_module()
class PanopticNarrativeDataset(GroundingDataset):
    """One item per narrative: the picture, the caption with its phrases, and their masks.

    The caption is fed as published, in its own case and spacing; a phrase is the characters at
    which its utterance stands in it (F-LMM builds a text anew from the lower-case utterances). A
    phrase's true mask is the union of its segments. Phrases are those whose ``segment_ids`` are
    not empty, as in F-LMM; a narrative without any is left out, and how many is logged.

    ``expression_groups`` of a phrase are two: "plurals" or "singulars" by the published field
    ``plural``, and "things" or "stuff" by the category of its last listed segment. Source: the
    data set's own script, BCV-Uniandes/PNG baseline/data/panoptic_narrative_grounding.py, where
    the last segment decides too (F-LMM counts every plural as things). ``expression_ids`` are
    "<place of the narrative in ann_file>:<place among its phrases>".

    Args:
        panoptic_json: COCO's ``panoptic_*.json``; ``ann_file`` is ``png_coco_*.json``.
        data_prefix: ``img_path`` and ``panoptic_path``, folders of images and panoptic PNGs.
        isolated: every phrase becomes a continuation of its own and sees no other word.
        max_phrases: at most so many per narrative (a draw from ``(seed, epoch, index)``), to
            bound training memory; None keeps all. The caption stays whole.
        **kwargs: of :class:`GroundingDataset`.
    """

    mask_decoder = "flmm.DecodePanopticMasks"

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        panoptic_json: str,
        data_prefix: dict[str, str],
        isolated: bool = False,
        max_phrases: int | None = None,
        **kwargs: Any,
    ) -> None:
        missing = {"img_path", "panoptic_path"} - set(data_prefix)
        if missing:
            raise ValueError(
                f"data_prefix has no {' and no '.join(sorted(missing))}: give the folders of the "
                "images (img_path) and of the panoptic PNGs (panoptic_path)"
            )
        self.panoptic_json = panoptic_json
        self.isolated = isolated
        self.max_phrases = max_phrases
        super().__init__(data_root=data_root, ann_file=ann_file, data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per narrative with a phrase to be grounded, in the order of the file."""
        entries = load_json(self.ann_file, "ann_file")
        if not isinstance(entries, list):
            raise ValueError(
                f"{self.ann_file} holds a {type(entries).__name__}, not a list of narratives"
            )
        images, records, silent = load_panoptic(self.panoptic_json), [], 0
        for index, entry in enumerate(entries):
            narrative = parse_narrative(entry, f"{self.ann_file}: narrative {index}")
            silent += not narrative.phrases
            phrases = self._list_phrases(index, narrative, images.get(narrative.image_id))
            if phrases:
                image = images[narrative.image_id]
                folders = self.data_prefix["img_path"], self.data_prefix["panoptic_path"]
                records.append(
                    {
                        "image_id": narrative.image_id,
                        "img_path": os.path.join(folders[0], image.file_name),
                        "panoptic_path": os.path.join(folders[1], image.panoptic_name),
                        "height": image.height,
                        "width": image.width,
                        "caption": narrative.caption,
                        "phrases": phrases,
                    }
                )
        if silent:
            print_log(
                f"{self.source}: {silent} of {len(entries)} narratives ground no phrase and are "
                "left out",
                logger="current",
            )
        return records

    def build_record(self, idx: int) -> dict[str, Any]:
        """Caption, chosen phrases and paths of narrative ``idx``."""
        record = self.get_data_info(idx)
        every: list[Phrase] = record.pop("phrases")
        caption = record.pop("caption")
        names = tuple((start, end) for _, start, end, _, _ in every)
        phrases = draw_at_most(self.start_draw(idx), every, self.max_phrases)
        spans = [(start, end) for _, start, end, _, _ in phrases]
        if self.isolated:
            record["continuations"] = [Continuation(caption[start:end]) for start, end in spans]
        else:
            record["continuations"] = [Continuation(caption, tuple(spans), keyword_spans=names)]
        record["expression_ids"] = [expression_id for expression_id, *_ in phrases]
        record["segment_ids"] = [list(segment_ids) for *_, segment_ids, _ in phrases]
        record["expression_groups"] = [groups for *_, groups in phrases]
        return record

    def _join_prefix(self) -> None:
        if self.data_root and not is_abs(self.panoptic_json):
            self.panoptic_json = join_path(self.data_root, self.panoptic_json)
        super()._join_prefix()

    def _list_phrases(
        self, index: int, narrative: Narrative, image: PanopticImage | None
    ) -> list[Phrase]:
        """The usable phrases of a narrative; the others are rejected one by one."""
        usable: list[Phrase] = []
        for position, phrase in enumerate(narrative.phrases):
            expression_id = f"{index}:{position}"
            fault = self._find_fault(phrase, image)
            if fault or phrase.span is None or image is None:
                where = f"{self.ann_file}: narrative {index} (image_id {narrative.image_id})"
                reason = f"{where}, phrase {position} ({phrase.utterance!r}): {fault}"
                self.reject(reason, narrative.image_id, [expression_id])
                continue
            kind = "things" if image.is_thing[phrase.segment_ids[-1]] else "stuff"
            groups = (kind, "plurals" if phrase.plural else "singulars")
            usable.append((expression_id, *phrase.span, phrase.segment_ids, groups))
        return usable

    def _find_fault(self, phrase: GroundedPhrase, image: PanopticImage | None) -> str | None:
        """Why a phrase cannot be used; None where it can."""
        together = f"{self.panoptic_json}: do the two files belong together?"
        if image is None:
            return f"its image is not in {together}"
        missing = [item for item in phrase.segment_ids if item not in image.is_thing]
        if missing:
            return f"segment {missing[0]} is not among its image's in {together}"
        if phrase.span is None:
            return "its words are not in the caption where the record's order wants them"
        return None


def parse_narrative(record: Any, where: str) -> Narrative:
    """A published record, checked; messages call it ``where``.

    It is ``{"image_id", "caption", "segments": [{"utterance", "segment_ids", "plural", "noun"}]}``;
    ids are digits in strings. The utterances, one after the other, make the caption; those with
    ``segment_ids`` are grounded.
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
