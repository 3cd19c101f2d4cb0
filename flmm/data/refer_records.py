"""Which refs of a split can be used, and what is wrong with the others.

Data in: refs, images and annotations as :mod:`flmm.data.refer_files` reads them. Data out:
each sound ref beside its image and annotation, and a list of problems, each with the expressions
that it costs. Whether a problem stops the run is decided by the data set, not here.
"""

from __future__ import annotations

import reprlib
from typing import Any, NamedTuple

from flmm.data.masks import check_segmentation
from flmm.data.refer_files import ANNOTATION_FIELDS, IMAGE_FIELDS


class Expression(NamedTuple):
    """One sentence about one ref."""

    text: str
    sent_id: int
    ref_id: int
    ann_id: int
    kind: str | None


class Problem(NamedTuple):
    """Why expressions cannot be used.

    Attributes:
        reason: names the record and what is wrong with it.
        image_id: of their image.
        expression_ids: of the expressions that are lost; blank ones are lost in any case.
        is_blank: the sentence is blank: left out, whatever the data set does with bad records.
    """

    reason: str
    image_id: int | str
    expression_ids: list[int]
    is_blank: bool = False


class JoinedRef(NamedTuple):
    """A ref that can be used."""

    image: dict[str, Any]
    annotation: dict[str, Any]
    expressions: list[Expression]


class JoinedRefs(NamedTuple):
    """The sound refs of a split in file order, what is wrong with the others, and how many refs
    and sentences stood in the file twice, word for word."""

    refs: list[JoinedRef]
    problems: list[Problem]
    repeated: int


def join_refs(
    refs: list[dict[str, Any]],
    images: dict[int, dict[str, Any]],
    annotations: dict[int, dict[str, Any]],
    ann_file: str,
    first_only: bool = False,
) -> JoinedRefs:
    """Put each ref of a split beside its image and annotation.

    Args:
        refs: of one split, in file order.
        images, annotations: by id.
        ann_file: what messages call the file of the two.
        first_only: only the first spoken sentence of each ref is wanted; problems of later ones
            are none.
    """
    problems: list[Problem] = []
    kept, repeated = _drop_repeated(refs, problems, first_only)
    joined, sentence_ids = [], set[int]()
    for ref in kept:
        mismatch = _find_mismatch(ref, images, annotations, ann_file)
        if mismatch is not None:
            problems.append(_blame(ref, mismatch, first_only))
            continue
        expressions, repeated_here = _list_expressions(ref, sentence_ids, problems, first_only)
        repeated += repeated_here
        if expressions:
            image, annotation = images[ref["image_id"]], annotations[ref["ann_id"]]
            joined.append(JoinedRef(image, annotation, expressions))
    return JoinedRefs(joined, problems, repeated)


def _drop_repeated(
    refs: list[dict[str, Any]], problems: list[Problem], first_only: bool
) -> tuple[list[dict[str, Any]], int]:
    """The refs without those that repeat an earlier one, and how many did so word for word."""
    first: dict[int, dict[str, Any]] = {}
    repeated = 0
    for ref in refs:
        if ref["ref_id"] not in first:
            first[ref["ref_id"]] = ref
        elif first[ref["ref_id"]] == ref:
            repeated += 1
        else:
            problems.append(_blame(ref, "occurs more than once, with other content", first_only))
    return list(first.values()), repeated


def _find_mismatch(
    ref: dict[str, Any],
    images: dict[int, dict[str, Any]],
    annotations: dict[int, dict[str, Any]],
    ann_file: str,
) -> str | None:
    """What hinders a ref from having a picture and a mask; None: nothing."""
    for name, records, fields in (
        ("ann_id", annotations, ANNOTATION_FIELDS),
        ("image_id", images, IMAGE_FIELDS),
    ):
        if ref[name] not in records:
            return f"has {name} {ref[name]}, which is not in {ann_file}"
        missing = [field for field in fields if field not in records[ref[name]]]
        if missing:
            return f"has {name} {ref[name]}, whose record has no field {missing[0]!r}"
    owner = annotations[ref["ann_id"]]["image_id"]
    if owner != ref["image_id"]:
        return (
            f"is about image {ref['image_id']}, its annotation {ref['ann_id']} about image {owner}"
        )
    return _find_unreadable(annotations[ref["ann_id"]], images[ref["image_id"]])


def _find_unreadable(annotation: dict[str, Any], image: dict[str, Any]) -> str | None:
    """Why an image cannot be opened or a mask not decoded; None: nothing hinders."""
    size = [image[side] for side in ("height", "width")]
    if not all(isinstance(side, int) and side > 0 for side in size):
        return f"has image_id {image['id']}, whose size is {size} (h, w)"
    if not isinstance(image["file_name"], str):
        return f"has image_id {image['id']}, whose file_name is {reprlib.repr(image['file_name'])}"
    try:
        check_segmentation(annotation["segmentation"], *size)
    except ValueError as error:
        return f"has ann_id {annotation['id']}, whose mask cannot be decoded: {error}"
    return None


def _list_expressions(
    ref: dict[str, Any], taken: set[int], problems: list[Problem], first_only: bool
) -> tuple[list[Expression], int]:
    """The sentences that can be used, and how many stand there twice, word for word."""
    expressions, repeated = [], 0
    for index, sentence in enumerate(ref["sentences"]):
        trouble = _find_trouble(ref, sentence, taken)
        if trouble is None:
            taken.add(sentence["sent_id"])
            expressions.append(_build_expression(ref, sentence))
        elif isinstance(sentence["raw"], str) and sentence in ref["sentences"][:index]:
            repeated += 1
        else:
            problems.append(trouble)
        if expressions and first_only:
            break
    return expressions, repeated


def _find_trouble(ref: dict[str, Any], sentence: dict[str, Any], taken: set[int]) -> Problem | None:
    """What is wrong with a sentence; None: nothing."""
    raw, sentence_id = sentence["raw"], sentence["sent_id"]
    where = f"sentence {sentence_id} of ref {ref['ref_id']} (image_id {ref['image_id']})"
    is_blank = isinstance(raw, str) and not raw.strip()
    if is_blank:
        reason = f"{where} is blank"
    elif sentence_id in taken:
        reason = f"{where}: this sent_id occurs more than once"
    elif not isinstance(raw, str):
        reason = f"{where} is no text but {reprlib.repr(raw)}"
    elif not _is_unicode(raw):
        reason = f"{where} is no valid Unicode (half of a character): {raw!r:.40}"
    else:
        return None
    return Problem(reason, ref["image_id"], [sentence_id], is_blank)


def _is_unicode(text: str) -> bool:
    """Whether a tokenizer can read the text; half an emoji is a ``str`` too."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _blame(ref: dict[str, Any], what: str, first_only: bool) -> Problem:
    """The problem of a whole ref."""
    ids = [sentence["sent_id"] for sentence in ref["sentences"]]
    return Problem(f"ref {ref['ref_id']} {what}", ref["image_id"], ids[:1] if first_only else ids)


def _build_expression(ref: dict[str, Any], sentence: dict[str, Any]) -> Expression:
    """The sentence in lower case, as in mmdet's data set."""
    return Expression(
        text=sentence["raw"].strip().lower(),
        sent_id=sentence["sent_id"],
        ref_id=ref["ref_id"],
        ann_id=ref["ann_id"],
        kind=sentence.get("kind"),
    )


__all__ = ["Expression", "JoinedRef", "JoinedRefs", "Problem", "join_refs"]
