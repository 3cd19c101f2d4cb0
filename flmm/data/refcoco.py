"""RefCOCO, RefCOCO+, RefCOCOg and data sets in their file layout, as grounding samples.

Data in: ``instances.json``, ``refs(*).p`` and a folder of images. Data out: one item per image,
with all its chosen expressions. Based on mmdet's ``RefCocoDataset`` (same arguments); mended:
refs that share an annotation are kept apart, the order is that of the refs file, every sentence
can be reached, sentences are drawn anew each epoch, the pickle is read as data, and no
record disappears without a word.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import print_log

from flmm import mmcv_ops
from flmm.data.bad_records import BadRecordsMixin
from flmm.data.refer_files import load_instances, load_refs, paused_collector
from flmm.data.refer_records import Expression, JoinedRef, join_refs
from flmm.data.transforms import build_pipeline
from flmm.records import Continuation
from flmm.registry import DATASETS

mmcv_ops.install()

from mmdet.datasets import RefCocoDataset  # noqa: E402  (needs the stand-in above)

# Ours -> mmdet's name for it; both are accepted.
TEXT_MODES = {"all": "original", "first": "select_first", "random": "random"}
# F-LMM's ``RefCOCO2PNG`` ends each expression with "." and no space, tokenising them apart.
# We tokenise the joined text as one, where ".blue" would be one token of Qwen's: hence the space.
PHRASE_END, PHRASE_GAP = ".", " "


@DATASETS.register_module()
class RefCocoGroundingDataset(BadRecordsMixin, RefCocoDataset):
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
        redraw: draw anew in every epoch; otherwise from ``(seed, index)`` alone, so that every
            epoch asks the same (for ``feature_cache``).
        bad_records: "stop" or "skip", see :class:`flmm.data.bad_records.BadRecordsMixin`.
            Blank sentences are left out in both cases, and listed in ``skipped``.
        **kwargs: of mmengine's ``BaseDataset``.

    Raises:
        FileNotFoundError: a file is missing; the message names the argument.
        ValueError: a file is not what it should be, or an argument is unknown.
        BadRecordError: a record cannot be used and ``bad_records`` is "stop".
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
        redraw: bool = True,
        bad_records: str = "stop",
        **kwargs: Any,
    ) -> None:
        text_mode = {theirs: ours for ours, theirs in TEXT_MODES.items()}.get(text_mode, text_mode)
        _check_choice("text_mode", text_mode, tuple(TEXT_MODES))
        _check_choice("phrase_control", phrase_control, (None, "other_object"))
        if pipeline is None:
            keep_empty = kwargs.get("test_mode", False)
            pipeline = build_pipeline(image_processor, keep_empty) if image_processor else []
        elif image_processor is not None:
            raise ValueError("give image_processor (standard pipeline) or pipeline, not both")
        self.joined = joined
        self.max_expressions = max_expressions
        self.phrase_control = phrase_control
        self.seed = seed
        self.redraw = redraw
        self._first_only = text_mode == "first"
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
            bad_records=bad_records,
            **kwargs,
        )
        self.text_mode = text_mode

    @property
    def source(self) -> str:
        """What messages call the data: its folder, file and split."""
        path = Path(self.split_file)
        return f"{path.parent.name}/{path.name}, split {self.split!r}"

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the draws; :class:`flmm.data.sampler.EpochSampler` calls it."""
        if self.redraw:
            self._epoch.fill_(epoch)

    @paused_collector()
    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image of the split, in the order of the refs file."""
        for field in ("ann_file", "split_file"):
            path = getattr(self, field)
            if not os.path.isfile(path):
                raise FileNotFoundError(
                    f"{field} {path} does not exist: check {field} and data_root"
                    f" ({self.data_root!r})"
                )
        records: dict[int, dict[str, Any]] = {}
        for ref in self._load_usable():
            image_id = ref.image["id"]
            if image_id not in records:
                records[image_id] = self._start_record(ref.image)
            record = records[image_id]
            ref_id = ref.expressions[0].ref_id
            record["segmentations"][ref_id] = ref.annotation["segmentation"]
            record["refs"].append([tuple(item) for item in ref.expressions])
        return self._drop_lonely(list(records.values()))

    def build_record(self, idx: int) -> dict[str, Any]:
        """Choose the expressions of image ``idx``."""
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
        return record

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

    def _load_usable(self) -> list[JoinedRef]:
        """The refs of the split that can be used, in the order of the refs file."""
        every = load_refs(self.split_file)
        chosen = [ref for ref in every if ref["split"] == self.split]
        if not chosen:
            splits = sorted({str(ref["split"]) for ref in every})
            raise ValueError(
                f"{self.split_file} has no ref of split {self.split!r}; its splits are {splits}"
            )
        del every
        images, annotations = load_instances(
            self.ann_file,
            image_ids={ref["image_id"] for ref in chosen},
            annotation_ids={ref["ann_id"] for ref in chosen},
        )
        joined = join_refs(chosen, images, annotations, Path(self.ann_file).name, self._first_only)
        for problem in joined.problems:
            note = self.leave_out if problem.is_blank else self.reject
            note(f"{self.source}: {problem.reason}", problem.image_id, problem.expression_ids)
        if joined.repeated:
            print_log(
                f"{self.source}: {joined.repeated} records stand in the file twice, word for word; "
                "they are used once",
                logger="current",
                level=logging.WARNING,
            )
        return joined.refs

    def _start_record(self, image: dict[str, Any]) -> dict[str, Any]:
        prefix = self.data_prefix["img_path"]
        return {
            "image_id": image["id"],
            "img_path": get_file_backend(prefix).join_path(prefix, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "segmentations": {},
            "refs": [],
        }

    def _drop_lonely(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """For the control, leave out images whose refs all mean one object, and note it."""
        if self.phrase_control != "other_object":
            return records
        kept = []
        for record in records:
            expressions = [Expression(*fields) for ref in record["refs"] for fields in ref]
            if len({item.ann_id for item in expressions}) > 1:
                kept.append(record)
            else:
                self.leave_out(
                    f"image {record['image_id']} has no second object whose phrase could be asked",
                    record["image_id"],
                    [item.sent_id for item in expressions],
                )
        return kept


def build_continuations(texts: list[str], joined: bool = False) -> list[Continuation]:
    """Phrases as continuations of their own, or as one that holds them all.

    Joined: "a. b. c.", each phrase a span without its full stop.

    Source: F-LMM flmm/data/transforms.py, ``RefCOCO2PNG.transform_concat``; there the
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


def _borrow_phrase(expression: Expression, refs: list[list[Expression]]) -> Expression:
    """A sentence of the next ref (in turn) that means another object than the expression's."""
    index = next(i for i, ref in enumerate(refs) if ref[0].ref_id == expression.ref_id)
    position = refs[index].index(expression)
    for ref in refs[index + 1 :] + refs[:index]:
        if ref[0].ann_id != expression.ann_id:
            return ref[position % len(ref)]
    raise ValueError(f"ref {expression.ref_id} has no other object beside it in its image")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is one of {choices}, got {value!r}")


__all__ = ["Expression", "RefCocoGroundingDataset", "build_continuations"]
