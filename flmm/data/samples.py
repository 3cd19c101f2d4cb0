"""Records of a data set become samples, and samples become what is asked about an image.

Two readers of one table can only compare figures of the same protocol (how an image's expressions
are put to the model), so every result names it. Pictures and masks are the pipeline's duty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from flmm.records import Continuation, GroundingSample

# Lists with one entry per phrase.
PHRASE_KEYS = (
    *("expression_ids", "ref_ids", "expression_kinds", "expression_groups", "object_counts"),
)
# ``left_out``: ids of expressions of this image that are not trained on (their mask is empty).
META_KEYS = ("image_id", "img_path", *PHRASE_KEYS, "left_out", "skipped")
# F-LMM's ``RefCOCO2PNG`` ends each expression with "." and no space, tokenising them apart.
# We tokenise the joined text as one, where ".blue" would be one token of Qwen's: hence the space.
PHRASE_END, PHRASE_GAP = ".", " "


def build_sample(record: dict[str, Any]) -> GroundingSample:
    """The sample of a record, without masks.

    ``record`` has ``continuations``, ``height``, ``width`` (px, where known), and what it has of
    ``META_KEYS``.
    """
    sample = GroundingSample(metainfo={key: record[key] for key in META_KEYS if key in record})
    if "height" in record:
        sample.set_metainfo({"original_size": (record["height"], record["width"])})
    sample.continuations = record["continuations"]
    return sample


def keep_phrases(record: dict[str, Any], kept: list[bool]) -> dict[str, Any]:
    """The record with those of its phrases whose mark in ``kept`` is true (at least one is).

    A phrase that goes loses its span, its ids and its groups. Where it stands in a text with
    other phrases, the text stays as it is: they are read in the same context as before.
    """
    continuations, position = [], 0
    for item in record["continuations"]:
        marks = kept[position : position + len(item.spans)]
        position += len(item.spans)
        spans = tuple(span for span, mark in zip(item.spans, marks) if mark)
        if spans:
            continuations.append(Continuation(item.text, spans, item.keyword_spans))
    lists = {
        key: [entry for entry, mark in zip(record[key], kept) if mark]
        for key in PHRASE_KEYS
        if key in record
    }
    return {**record, "continuations": continuations, **lists}


def build_continuations(texts: list[str], joined: bool = False) -> list[Continuation]:
    """Phrases as continuations of their own, or as one that holds them all.

    Joined: "a. b. c.", each phrase a span without its full stop.

    Source: F-LMM flmm/data/transforms.py, ``RefCOCO2PNG.transform_concat``; there the
    expressions are tokenised apart and no space follows the full stop.
    """
    if not joined:
        return [Continuation(text) for text in texts]
    joined_text, spans = "", []
    for text in texts:
        joined_text += PHRASE_GAP if joined_text else ""
        spans.append((len(joined_text), len(joined_text) + len(text)))
        joined_text += text + PHRASE_END
    return [Continuation(joined_text, spans=tuple(spans))]


class Question(NamedTuple):
    """Texts to be fed and, for each of their phrases, its row in the sample."""

    continuations: list[Continuation]
    rows: list[int]


Ask = Callable[[GroundingSample], Question]


def ask_as_given(sample: GroundingSample) -> Question:
    """The data set's own texts.

    Protocol ``standard``: every sentence of every ref, each isolated (LISA, Sa2VA). Protocol
    ``narrative``: a caption with its noun phrases.
    """
    return Question(sample.continuations, list(range(len(sample.phrases))))


def ask_first_sentences_joined(sample: GroundingSample) -> Question:
    """Protocol ``flmm``: the first sentence of each ref, all refs of an image in one text.

    Source: F-LMM scripts/multiprocess_eval_refcoco.py with ``--concat``. Deviation: a ref whose
    first sentence is blank is asked with its next one.
    """
    first = {ref_id: row for row, ref_id in reversed(list(enumerate(sample.ref_ids)))}
    rows, phrases = sorted(first.values()), sample.phrases
    return Question(build_continuations([phrases[row] for row in rows], joined=True), rows)
