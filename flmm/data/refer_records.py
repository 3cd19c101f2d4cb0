"""Which refs of a split can be used, and what is wrong with the others.

Whether a problem stops the run is decided by the data set, not here.
"""

from __future__ import annotations

import os
import reprlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flmm.data.masks import check_segmentation
from flmm.data.refer_files import ANNOTATION_FIELDS, IMAGE_FIELDS, list_targets

Record = dict[str, Any]


class Expression(NamedTuple):
    """One sentence about one ref."""

    text: str
    sent_id: int
    ref_id: int
    ann_id: int | list[int]  # a list in gRefCOCO's layout
    kind: str | None


class Problem(NamedTuple):
    """Why expressions are lost; ``reason`` names the record and what is wrong with it.

    Attributes:
        is_blank: the sentence is blank: left out, whatever the data set does with bad records.
    """

    reason: str
    image_id: int | str
    expression_ids: list[int]
    is_blank: bool = False


@dataclass
class JoinedRefs:
    """The refs of a split beside their images and annotations.

    Attributes:
        records: one per image, in the order of the refs file: ``image_id``, ``img_path``,
            ``height``, ``width``, ``segmentations`` by ref_id (a list each: the truth is their
            union), and ``refs``, the expressions of each ref as plain tuples, which take little
            memory; in gRefCOCO's layout also ``groups`` by ref_id.
        problems: what is wrong with the other refs and sentences.
        repeated: how many refs and sentences stood in the file twice, word for word.
    """

    records: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    repeated: int = 0


def join_refs(
    refs: list[Record],
    images: dict[int, Record],
    annotations: dict[int, Record],
    ann_file: str,
    img_path: str,
    first_only: bool = False,
) -> JoinedRefs:
    """Put each ref of a split beside its image and annotation, which go by id.

    Args:
        refs: of one split, in file order.
        ann_file: what messages call the file of the two.
        img_path: folder of the pictures.
        first_only: problems of sentences after the first spoken one are none.
    """
    joined = JoinedRefs()
    first: dict[int, Record] = {}
    records: dict[int, Record] = {}
    sentence_ids = set[int]()
    for ref in refs:
        known = first.setdefault(ref["ref_id"], ref)
        if known is ref:
            reason = _find_mismatch(ref, images, annotations, ann_file)
        elif known == ref:
            joined.repeated += 1
            continue
        else:
            reason = "occurs more than once, with other content"
        if reason is not None:
            ids = [sentence["sent_id"] for sentence in ref["sentences"]][
                : 1 if first_only else None
            ]
            joined.problems.append(Problem(f"ref {ref['ref_id']} {reason}", ref["image_id"], ids))
            continue
        expressions = _list_expressions(ref, sentence_ids, joined, first_only)
        if not expressions:
            continue
        image = images[ref["image_id"]]
        record = records.setdefault(
            image["id"],
            {
                "image_id": image["id"],
                "img_path": os.path.join(img_path, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "segmentations": {},
                "refs": [],
            },
        )
        targets = _drop_crowds(ref, annotations)
        record["segmentations"][ref["ref_id"]] = [item["segmentation"] for item in targets]
        if isinstance(ref["ann_id"], list):
            group = ("none", "one", "several")[min(len(targets), 2)]
            record.setdefault("groups", {})[ref["ref_id"]] = (group,)
        record["refs"].append([tuple(item) for item in expressions])
    joined.records = list(records.values())
    return joined


def check_release(refs: list[Record], annotations: dict[int, Record], files: str) -> None:
    """Raise a ``ValueError`` where most of gRefCOCO's refs fit no annotation.

    Its ``files`` are of two releases then: the older refs have other ids.
    """
    aimed = [ref for ref in refs if isinstance(ref["ann_id"], list) and list_targets(ref)]
    strangers = [ref for ref in aimed if not _owns(ref, annotations)]
    if 2 * len(strangers) > len(aimed):
        ref = strangers[0]
        raise ValueError(
            f"{files} do not belong together: {len(strangers):,} of {len(aimed):,} refs name "
            f"annotations that are absent or of another image (first: ref {ref['ref_id']}, ann_id "
            f"{ref['ann_id']}): get both files from one release"
        )


def _owns(ref: Record, annotations: dict[int, Record]) -> bool:
    """Whether a ref's annotations are there, and of its image."""
    found = [annotations.get(key, {}) for key in list_targets(ref)]
    return all(item.get("image_id") == ref["image_id"] for item in found)


def _find_mismatch(
    ref: Record, images: dict[int, Record], annotations: dict[int, Record], ann_file: str
) -> str | None:
    """What hinders a ref from having a picture and a mask; None: nothing."""
    targets = list_targets(ref)
    named = [("ann_id", key, annotations, ANNOTATION_FIELDS) for key in targets]
    for name, key, records, fields in [*named, ("image_id", ref["image_id"], images, IMAGE_FIELDS)]:
        if key not in records:
            return f"has {name} {key}, which is not in {ann_file}"
        missing = [field for field in fields if field not in records[key]]
        if missing:
            return f"has {name} {key}, whose record has no field {missing[0]!r}"
    image = images[ref["image_id"]]
    size = [image[side] for side in ("height", "width")]
    if not all(isinstance(side, int) and side > 0 for side in size):
        return f"has image_id {image['id']}, whose size is {size} (h, w)"
    if not isinstance(image["file_name"], str):
        return f"has image_id {image['id']}, whose file_name is {reprlib.repr(image['file_name'])}"
    for annotation in (annotations[key] for key in targets):
        if annotation["image_id"] != ref["image_id"]:
            return (
                f"is about image {ref['image_id']}, its annotation {annotation['id']} about image "
                f"{annotation['image_id']}"
            )
        try:
            check_segmentation(annotation["segmentation"], *size)
        except ValueError as error:
            return f"has ann_id {annotation['id']}, whose mask cannot be decoded: {error}"
    if targets and not _drop_crowds(ref, annotations):
        return f"has ann_id {targets}, all of them crowds: it has no true mask"
    return None


def _drop_crowds(ref: Record, annotations: dict[int, Record]) -> list[Record]:
    """A ref's annotations; in gRefCOCO's layout without crowds."""
    targets = [annotations[key] for key in list_targets(ref)]
    is_generalised = isinstance(ref["ann_id"], list)
    return [item for item in targets if not (is_generalised and item.get("iscrowd"))]


def _list_expressions(
    ref: Record, taken: set[int], joined: JoinedRefs, first_only: bool
) -> list[Expression]:
    """The sentences that can be used, in lower case, as in mmdet's data set."""
    expressions: list[Expression] = []
    for index, sentence in enumerate(ref["sentences"]):
        raw, sentence_id = sentence["raw"], sentence["sent_id"]
        reason = _find_trouble(raw, sentence_id in taken)
        if reason is None:
            taken.add(sentence_id)
            text, ids = raw.strip().lower(), (sentence_id, ref["ref_id"], ref["ann_id"])
            expressions.append(Expression(text, *ids, sentence.get("kind")))
        elif isinstance(raw, str) and sentence in ref["sentences"][:index]:
            joined.repeated += 1
        else:
            where = f"sentence {sentence_id} of ref {ref['ref_id']} (image_id {ref['image_id']})"
            is_blank = reason == _BLANK
            problem = Problem(f"{where}{reason}", ref["image_id"], [sentence_id], is_blank)
            joined.problems.append(problem)
        if expressions and first_only:
            break
    return expressions


_BLANK = " is blank"


def _find_trouble(raw: Any, is_taken: bool) -> str | None:
    """What is wrong with a sentence; None: nothing."""
    if isinstance(raw, str) and not raw.strip():
        return _BLANK
    if is_taken:
        return ": this sent_id occurs more than once"
    if not isinstance(raw, str):
        return f" is no text but {reprlib.repr(raw)}"
    try:
        raw.encode("utf-8")
    except UnicodeEncodeError:  # half an emoji is a ``str`` too
        return f" is no valid Unicode (half of a character): {raw!r:.40}"
    return None
