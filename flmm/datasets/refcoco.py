"""RefCOCO, RefCOCO+, RefCOCOg and data sets in their file layout, as grounding samples.

Data in: ``instances.json``, ``refs(*).p`` and a folder of images. Data out: one item per image,
with all its chosen expressions. Based on mmdet's ``RefCocoDataset`` (same arguments); mended:
refs that share an annotation are kept apart, the order is that of the refs file, every sentence
can be reached, sentences are drawn anew each epoch, and the pickle is read by a safe unpickler.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import print_log

from flmm import mmcv_ops
from flmm.datasets.refer_files import (
    ANNOTATION_FIELDS,
    IMAGE_FIELDS,
    check_fields,
    load_instances,
    load_refs,
)
from flmm.datasets.transforms import build_pipeline
from flmm.registry import DATASETS
from flmm.structures import Continuation

mmcv_ops.install()

from mmdet.datasets import RefCocoDataset  # noqa: E402  (needs the stand-in above)

# Ours -> mmdet's name for it; both are accepted.
TEXT_MODES = {"all": "original", "first": "select_first", "random": "random"}
# F-LMM's ``RefCOCO2PNG`` ends each expression with "." and no space, tokenising them apart.
# We tokenise the joined text as one, where ".blue" would be one token of Qwen's: hence the space.
PHRASE_END, PHRASE_GAP = ".", " "


class Expression(NamedTuple):
    """One sentence about one ref."""

    text: str
    sent_id: int
    ref_id: int
    ann_id: int
    kind: str | None


@DATASETS.register_module()
class RefCocoGroundingDataset(RefCocoDataset):
    """One item per image: the picture and all its chosen expressions with their masks.

    Args:
        data_root, ann_file, split_file, data_prefix, split: as in mmdet's ``RefCocoDataset``;
            ``data_prefix=dict(img_path=...)`` is the folder of the images.
        text_mode: "all": every sentence of every ref; "first": the first sentence of every ref;
            "random": one sentence per ref, drawn from ``(seed, epoch, index)``. mmdet's names
            ("original", "select_first") are understood.
        joined: all phrases of an image become one continuation ("a. b. c.") with spans, so that
            later phrases see earlier ones (F-LMM's ``--concat``); otherwise each is isolated.
        max_expressions: at most so many per image (a draw from ``(seed, epoch, index)``), to
            bound training memory; None keeps all.
        phrase_control: "other_object" asks each mask with a phrase about another object of the
            same image, an experiment that a reader which listens must fail. Images whose refs
            all mean one object are left out.
        image_processor: config of the reader's image processor; makes the standard pipeline.
        pipeline: a pipeline of one's own instead.
        seed: of the draws.
        **kwargs: of mmengine's ``BaseDataset``.

    Raises:
        FileNotFoundError: a file is missing; the message names the argument.
        ValueError: a record lacks a field or names a missing one, or an argument is unknown.
    """

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        split_file: str,
        data_prefix: dict[str, str],
        split: str = "train",
        text_mode: str = "random",
        joined: bool = False,
        max_expressions: int | None = None,
        phrase_control: str | None = None,
        image_processor: dict[str, Any] | None = None,
        pipeline: list[Any] | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        text_mode = {theirs: ours for ours, theirs in TEXT_MODES.items()}.get(text_mode, text_mode)
        _check_choice("text_mode", text_mode, tuple(TEXT_MODES))
        _check_choice("phrase_control", phrase_control, (None, "other_object"))
        if pipeline is None:
            pipeline = [] if image_processor is None else build_pipeline(image_processor)
        elif image_processor is not None:
            raise ValueError("give image_processor (standard pipeline) or pipeline, not both")
        self.joined = joined
        self.max_expressions = max_expressions
        self.phrase_control = phrase_control
        self.seed = seed
        # In shared memory: workers that live through several epochs read it too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        super().__init__(
            data_root=data_root,
            ann_file=ann_file,
            split_file=split_file,
            data_prefix=data_prefix,
            split=split,
            text_mode=TEXT_MODES[text_mode],
            pipeline=pipeline,
            **kwargs,
        )
        self.text_mode = text_mode

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the draws; :class:`flmm.datasets.sampler.EpochSampler` calls it."""
        self._epoch.fill_(epoch)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image of the split, in the order of the refs file."""
        for field in ("ann_file", "split_file"):
            path = getattr(self, field)
            if not os.path.isfile(path):
                raise FileNotFoundError(
                    f"{field} {path} does not exist: check {field} and data_root"
                    f" ({self.data_root!r})"
                )
        refs, (images, annotations) = load_refs(self.split_file), load_instances(self.ann_file)
        records: dict[int, dict[str, Any]] = {}
        for ref in self._select_split(refs):
            annotation = self._find(annotations, ref["ann_id"], "ann_id", ref, ANNOTATION_FIELDS)
            image = self._find(images, ref["image_id"], "image_id", ref, IMAGE_FIELDS)
            if annotation["image_id"] != image["id"]:
                raise ValueError(
                    f"ref {ref['ref_id']} of {self.split_file} is about image {image['id']}, its "
                    f"annotation {annotation['id']} about image {annotation['image_id']}"
                )
            record = records.setdefault(image["id"], self._build_record(image))
            record["segmentations"][ref["ref_id"]] = annotation["segmentation"]
            record["refs"].append(_list_expressions(ref))
        return self._drop_unusable(list(records.values()))

    def prepare_data(self, idx: int) -> Any:
        """Choose the expressions of image ``idx`` and run the pipeline."""
        record = self.get_data_info(idx)
        rng = np.random.default_rng([self.seed, int(self._epoch), idx])
        refs = [[Expression(*fields) for fields in ref] for ref in record.pop("refs")]
        chosen = self._choose(refs, rng)
        if self.phrase_control == "other_object":
            phrases = [_borrow_phrase(expression, refs) for expression in chosen]
        else:
            phrases = chosen
        record["continuations"] = build_continuations([item.text for item in phrases], self.joined)
        record["expression_ids"] = [item.sent_id for item in chosen]
        record["ref_ids"] = [item.ref_id for item in chosen]
        if any(item.kind for item in phrases):
            record["expression_kinds"] = [item.kind or "other" for item in phrases]
        kept = dict.fromkeys(record["ref_ids"])
        record["segmentations"] = {ref_id: record["segmentations"][ref_id] for ref_id in kept}
        return self.pipeline(record)

    def _choose(self, refs: list[list[Expression]], rng: np.random.Generator) -> list[Expression]:
        if self.text_mode == "all":
            chosen = [expression for ref in refs for expression in ref]
        elif self.text_mode == "first":
            chosen = [ref[0] for ref in refs]
        else:
            chosen = [ref[rng.integers(len(ref))] for ref in refs]
        if self.max_expressions is None or len(chosen) <= self.max_expressions:
            return chosen
        kept = rng.choice(len(chosen), self.max_expressions, replace=False)
        return [chosen[index] for index in sorted(kept)]

    def _select_split(self, refs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        chosen = [ref for ref in refs if ref["split"] == self.split]
        if not chosen:
            splits = sorted({str(ref["split"]) for ref in refs})
            raise ValueError(
                f"{self.split_file} has no ref of split {self.split!r}; its splits are {splits}"
            )
        _check_unique(chosen, self.split_file)
        return chosen

    def _find(
        self,
        records: dict[int, dict[str, Any]],
        key: int,
        name: str,
        ref: dict[str, Any],
        fields: tuple[str, ...],
    ) -> dict[str, Any]:
        if key not in records:
            raise ValueError(
                f"ref {ref['ref_id']} of {self.split_file} has {name} {key}, which is not in "
                f"{self.ann_file}: the two files do not belong together"
            )
        check_fields(records[key], fields, f"{self.ann_file}: the record of {name} {key}")
        return records[key]

    def _build_record(self, image: dict[str, Any]) -> dict[str, Any]:
        prefix = self.data_prefix["img_path"]
        return {
            "image_id": image["id"],
            "img_path": get_file_backend(prefix).join_path(prefix, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "segmentations": {},
            "refs": [],
        }

    def _drop_unusable(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leave out blank sentences (and say so) and, for the control, lonely objects."""
        blank = []
        for record in records:
            blank += [item.sent_id for ref in record["refs"] for item in ref if not item.text]
            spoken = [[tuple(item) for item in ref if item.text] for ref in record["refs"]]
            record["refs"] = [ref for ref in spoken if ref]
        if blank:
            print_log(
                f"{Path(self.split_file).name}: {len(blank)} blank sentences of split "
                f"{self.split!r} are left out (sent_id {blank[:10]})",
                logger="current",
                level=logging.WARNING,
            )
        objects = 2 if self.phrase_control == "other_object" else 1
        return [item for item in records if _count_objects(item["refs"]) >= objects]


def build_continuations(texts: list[str], joined: bool = False) -> list[Continuation]:
    """Phrases as continuations of their own, or as one that holds them all.

    Joined: "a. b. c.", each phrase a span without its full stop.

    Source: F-LMM flmm/datasets/transforms.py, ``RefCOCO2PNG.transform_concat``; there the
    expressions are tokenised apart and no space follows the full stop.
    """
    if not joined:
        return [Continuation(text) for text in texts]
    spans: list[tuple[int, int]] = []
    end = 0
    for text in texts:
        start = end + (len(PHRASE_GAP) if spans else 0)
        spans.append((start, start + len(text)))
        end = start + len(text) + len(PHRASE_END)
    joined_text = PHRASE_GAP.join(text + PHRASE_END for text in texts)
    return [Continuation(joined_text, spans=tuple(spans))]


def _list_expressions(ref: dict[str, Any]) -> list[Expression]:
    """All sentences of a ref, lower case as in mmdet's data set."""
    return [
        Expression(
            text=str(sentence["raw"]).strip().lower(),
            sent_id=sentence["sent_id"],
            ref_id=ref["ref_id"],
            ann_id=ref["ann_id"],
            kind=sentence.get("kind"),
        )
        for sentence in ref["sentences"]
    ]


def _borrow_phrase(expression: Expression, refs: list[list[Expression]]) -> Expression:
    """A sentence of the next ref (in turn) that means another object than the expression's."""
    index = next(i for i, ref in enumerate(refs) if ref[0].ref_id == expression.ref_id)
    position = refs[index].index(expression)
    for ref in refs[index + 1 :] + refs[:index]:
        if ref[0].ann_id != expression.ann_id:
            return ref[position % len(ref)]
    raise ValueError(f"ref {expression.ref_id} has no other object beside it in its image")


def _count_objects(refs: list[list[tuple]]) -> int:
    return len({Expression(*ref[0]).ann_id for ref in refs})


def _check_unique(refs: list[dict[str, Any]], path: str) -> None:
    """Results are joined by these ids, so that none may occur twice in a split."""
    for name, ids in (
        ("ref_id", [ref["ref_id"] for ref in refs]),
        ("sent_id", [sentence["sent_id"] for ref in refs for sentence in ref["sentences"]]),
    ):
        if len(set(ids)) < len(ids):
            values, counts = np.unique(ids, return_counts=True)
            raise ValueError(f"{path}: {name} {values[counts.argmax()]} occurs more than once")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is one of {choices}, got {value!r}")


__all__ = ["Expression", "RefCocoGroundingDataset", "build_continuations"]
