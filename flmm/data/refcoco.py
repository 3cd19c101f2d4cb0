"""RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and data sets in their layouts, as grounding samples.

Based on mmdet's ``RefCocoDataset`` (same arguments); mended: refs that share an annotation are kept
apart, the order is that of the refs file, every sentence can be reached, sentences are drawn anew
each epoch, the pickle is read as data, and no record disappears without a word.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from flmm import mmcv_ops
from flmm.data.grounding_dataset import GroundingDataset, check_choice, draw_at_most
from flmm.data.refer_files import list_targets, load_instances, load_refs, paused_collector
from flmm.data.refer_records import Expression, JoinedRefs, check_release, join_refs
from flmm.data.samples import build_continuations
from flmm.registry import DATASETS

mmcv_ops.install()

from mmdet.datasets import RefCocoDataset  # noqa: E402  (needs the stand-in above)

# Ours -> mmdet's name for it; both are accepted.
TEXT_MODES = {"all": "original", "first": "select_first", "random": "random"}


@DATASETS.register_module()
class RefCocoGroundingDataset(GroundingDataset, RefCocoDataset):
    """One item per image: the picture and all its chosen expressions with their masks.

    Args:
        data_root, ann_file, split_file, data_prefix, split: as in mmdet's ``RefCocoDataset``;
            ``data_prefix=dict(img_path=...)`` is the folder of the images. A ``split_file`` that
            ends in ".json" is gRefCOCO's: the true mask is the union of a ref's annotations
            without crowds, and expressions are grouped as "one", "several" and "none".
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
        **kwargs: of :class:`GroundingDataset`. Blank sentences are left out whatever
            ``bad_records`` is, and listed in ``skipped``.
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
        **kwargs: Any,
    ) -> None:
        text_mode = {theirs: ours for ours, theirs in TEXT_MODES.items()}.get(text_mode, text_mode)
        check_choice("text_mode", text_mode, tuple(TEXT_MODES))
        check_choice("phrase_control", phrase_control, (None, "other_object"))
        self.joined = joined
        self.max_expressions = max_expressions
        self.phrase_control = phrase_control
        self._first_only = text_mode == "first"
        super().__init__(
            data_root=data_root,
            ann_file=ann_file,
            split_file=split_file,
            data_prefix=data_prefix,
            split=split,
            text_mode=TEXT_MODES[text_mode],
            **kwargs,
        )
        self.text_mode = text_mode

    @property
    def source(self) -> str:
        """What messages call the data: its folder, file and split."""
        path = Path(self.split_file)
        return f"{path.parent.name}/{path.name}, split {self.split!r}"

    @paused_collector()
    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image of the split, in the order of the refs file."""
        joined = self._join()
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
        if self.phrase_control != "other_object":
            return joined.records
        return list(filter(self._has_two_objects, joined.records))

    def build_record(self, idx: int) -> dict[str, Any]:
        """Choose the expressions of image ``idx``."""
        record = self.get_data_info(idx)
        refs = [[Expression(*fields) for fields in ref] for ref in record.pop("refs")]
        chosen = phrases = self._choose(refs, self.start_draw(idx))
        if self.phrase_control == "other_object":
            phrases = [_borrow_phrase(expression, refs) for expression in chosen]
        record["continuations"] = build_continuations([item.text for item in phrases], self.joined)
        record["expression_ids"] = [item.sent_id for item in chosen]
        record["ref_ids"] = [item.ref_id for item in chosen]
        if groups := record.pop("groups", None):
            record["expression_groups"] = [groups[item.ref_id] for item in chosen]
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
        return list(draw_at_most(rng, chosen, self.max_expressions))

    def _join(self) -> JoinedRefs:
        """The refs of the split, in the order of the refs file."""
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
            annotation_ids={key for ref in chosen for key in list_targets(ref)},
        )
        check_release(chosen, annotations, f"{self.split_file} and {self.ann_file}")
        name, folder = Path(self.ann_file).name, self.data_prefix["img_path"]
        return join_refs(chosen, images, annotations, name, folder, self._first_only)

    def _has_two_objects(self, record: dict[str, Any]) -> bool:
        """Whether an image can take part in the control; notes it where it cannot."""
        expressions = [Expression(*fields) for ref in record["refs"] for fields in ref]
        if len({str(item.ann_id) for item in expressions}) > 1:
            return True
        self.leave_out(
            f"image {record['image_id']} has no second object whose phrase could be asked",
            record["image_id"],
            [item.sent_id for item in expressions],
        )
        return False


def _borrow_phrase(expression: Expression, refs: list[list[Expression]]) -> Expression:
    """A sentence of the next ref (in turn) that means another object than the expression's."""
    index = next(i for i, ref in enumerate(refs) if ref[0].ref_id == expression.ref_id)
    position = refs[index].index(expression)
    for ref in refs[index + 1 :] + refs[:index]:
        if ref[0].ann_id != expression.ann_id:
            return ref[position % len(ref)]
    raise ValueError(f"ref {expression.ref_id} has no other object beside it in its image")
