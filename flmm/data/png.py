"""Panoptic Narrative Grounding as grounding samples.

Data in: ``png_coco_*.json``, COCO's panoptic JSON, the folder of panoptic PNGs and the folder of
images. Data out: one item per narrative: a picture and its caption as one continuation, in which
every noun phrase that means segments is to be grounded.
"""

from __future__ import annotations

import os
from typing import Any

from mmengine.fileio import join_path
from mmengine.logging import print_log
from mmengine.utils import is_abs

from flmm.data.grounding_dataset import GroundingDataset, draw_at_most
from flmm.data.narratives import GroundedPhrase, Narrative, parse_narrative
from flmm.data.panoptic import PanopticImage, load_panoptic
from flmm.data.refer_files import load_json
from flmm.records import Continuation
from flmm.registry import DATASETS

# One grounded phrase as the loaded records hold it: plain, for pickling.
Phrase = tuple[str, int, int, tuple[int, ...], tuple[str, str]]


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
        data_root: folder that the other paths are relative to.
        ann_file: ``png_coco_*.json``.
        panoptic_json: COCO's ``panoptic_*.json``.
        data_prefix: ``img_path`` and ``panoptic_path``, folders of images and panoptic PNGs.
        isolated: every phrase becomes a continuation of its own and sees no other word.
        max_phrases: at most so many per narrative (a draw from ``(seed, epoch, index)``), to
            bound training memory; None keeps all. The caption stays whole.
        **kwargs: of :class:`GroundingDataset`.

    Raises:
        FileNotFoundError: a file is missing; the message names the argument.
        ValueError: a file is not in the published layout, or an argument is unknown.
        BadRecordError: a phrase's image, segments or words are not where the record says.
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
        """One record per narrative that has a phrase to be grounded, in the order of the file."""
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
                records.append(self._build_data(narrative, image, phrases))
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

    def _build_data(
        self, narrative: Narrative, image: PanopticImage, phrases: list[Phrase]
    ) -> dict[str, Any]:
        return {
            "image_id": narrative.image_id,
            "img_path": os.path.join(self.data_prefix["img_path"], image.file_name),
            "panoptic_path": os.path.join(self.data_prefix["panoptic_path"], image.panoptic_name),
            "height": image.height,
            "width": image.width,
            "caption": narrative.caption,
            "phrases": phrases,
        }
