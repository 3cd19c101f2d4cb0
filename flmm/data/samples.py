"""What a record of a data set becomes on its way out: a sample, with or without true masks.

Data in: the dict that a data set's ``build_record`` makes and the pipeline fills. Data out: a
``GroundingSample``. Reading pictures and decoding masks is the pipeline's duty.
"""

from __future__ import annotations

from typing import Any

from flmm.records import Continuation, GroundingSample

# ``left_out``: ids of expressions of this image that are not trained on (their mask is empty).
META_KEYS = (
    "image_id",
    "img_path",
    "expression_ids",
    "ref_ids",
    "expression_kinds",
    "expression_groups",
    "left_out",
    "skipped",
)
# Of these, lists with one entry per phrase.
PHRASE_KEYS = ("expression_ids", "ref_ids", "expression_kinds", "expression_groups")


def build_sample(record: dict[str, Any]) -> GroundingSample:
    """The sample of a record, without masks.

    Args:
        record: has ``continuations``, ``height`` and ``width`` (px), and what it knows of
            ``META_KEYS``.
    """
    sample = GroundingSample(
        metainfo={key: record[key] for key in META_KEYS if key in record}
        | {"original_size": (record["height"], record["width"])}
    )
    sample.continuations = record["continuations"]
    return sample


def keep_phrases(record: dict[str, Any], kept: list[bool]) -> dict[str, Any]:
    """The record with some of its phrases only.

    A phrase that goes loses its span, its ids and its groups. Where it stands in a text with
    other phrases, the text stays as it is: they are read in the same context as before.

    Args:
        record: has ``continuations`` and lists with one entry per phrase (``PHRASE_KEYS``).
        kept: one entry per phrase, in output order; at least one is true.
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
