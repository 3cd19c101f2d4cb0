"""The loop of the evaluation tools: every image of a split once, under any number of protocols.

Pixels are counted per expression and gathered from all processes. Work that a journal holds is not
done again, and what is computed does not depend on the number of processes.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from torch.utils.data import DataLoader
from tqdm import tqdm

from flmm.data.samples import Question
from flmm.evaluation.journal import Journal
from flmm.evaluation.protocols import PROTOCOLS
from flmm.evaluation.scores import ExpressionScore, score_expressions
from flmm.records import Continuation, GroundingSample, ImageInput, SkippedExpression
from flmm.results import GroundingResult, join_results
from flmm.ways import predict_together

Record = dict[str, Any]
# By way: of each picture a result per question.
Predictions = dict[str, list[list[GroundingResult]]]


@dataclass
class EvaluationSplit:
    """One split to be evaluated."""

    dataset_name: str
    split: str
    dataset: Any  # of ``dict(inputs=ImageInput | None, data_samples=GroundingSample)``
    protocols: Sequence[str]  # names in :data:`PROTOCOLS`, all asked in one pass
    limit: int | None = None  # only the first so many images

    @property
    def num_images(self) -> int:
        """Images to be evaluated."""
        return min(len(self.dataset), self.limit or len(self.dataset))


@dataclass
class SplitResult:
    """What came out of one split in one way, by protocol, in the order of the data set."""

    dataset_name: str
    split: str
    way: str
    images: int = 0  # that were scored
    scores: dict[str, list[ExpressionScore]] = field(default_factory=dict)
    # (expression id, reason) of masks that are empty for a reason.
    problems: dict[str, list[tuple[int | str, str]]] = field(default_factory=dict)
    skipped: list[SkippedExpression] = field(default_factory=list)  # those of every sentence
    # One COCO-style record per expression, where asked for.
    predictions: dict[str, list[Record]] = field(default_factory=dict)
    seconds: float = 0.0  # wall time of this run in the loop; the journal's images cost none
    computed: int = 0  # expressions that this run computed, of all protocols and ways


def evaluate_split(
    models: Mapping[str, Any],
    split: EvaluationSplit,
    journal_folder: str | Path,
    save_predictions: bool = False,
    num_workers: int = 0,
    batch_size: int = 1,
    one_by_one: bool = False,
) -> list[SplitResult]:
    """Evaluate one split on all processes; every process returns the same results, one per model.

    Args:
        models: by the way they point, with ``predict_images``, in eval mode, on their device; of
            one reader and one image encoder, so that a picture is read and encoded once.
        journal_folder: of the split; see :class:`Journal`.
        save_predictions: keep every refined mask as COCO RLE.
        num_workers: of the loader, per process.
        batch_size: images that are read together.
        one_by_one: read the picture anew for every text; the same figures, slower.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    journal = Journal(journal_folder, rank)
    dist.barrier()  # nobody appends before everybody has read
    wanted = set(range(split.num_images)) - set(journal.records)
    size = len(split.dataset)
    # Which images are read together never depends on the number of processes, on what a journal
    # holds or on a limit, so that not a bit of the results does.
    batches = [list(range(at, min(at + batch_size, size))) for at in range(0, size, batch_size)]
    batches = [batch for batch in batches if wanted.intersection(batch)][rank::world_size]
    loader = DataLoader(
        split.dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=list,  # pictures have sizes of their own
        pin_memory=torch.cuda.is_available(),
    )
    predict = functools.partial(_predict_one_by_one if one_by_one else _predict, models)
    start = time.perf_counter()
    own: dict[int, Record] = {}
    with _open_bar(split, batches, wanted) as bar:
        for batch, items in zip(batches, loader):
            records = _evaluate_images(predict, items, split.protocols, save_predictions)
            for index, record in zip(batch, records):
                if index in wanted:
                    own[index] = record
                    journal.append(index, record)
                    bar.update()
    journal.close()
    gathered = dist.all_gather_object((own, time.perf_counter() - start))
    for others, _ in gathered:
        journal.records |= others
    results = [_collect(split, journal.records, way) for way in models]
    for result in results:
        result.seconds = max(seconds for _, seconds in gathered)
        result.computed = sum(_count(item) for others, _ in gathered for item in others.values())
    return results


def _open_bar(split: EvaluationSplit, batches: list[list[int]], wanted: set[int]) -> tqdm:
    """A bar with the time left; in a log file a line now and then."""
    name = f"{split.dataset_name} {split.split}"
    done = split.num_images - len(wanted)
    if done:
        dist.master_only(tqdm.write)(f"{name}: {done} images were done before, going on")
    return tqdm(
        total=sum(len(wanted.intersection(batch)) for batch in batches),
        desc=name,
        unit="image",
        disable=not dist.is_main_process(),
        mininterval=0.2 if sys.stderr.isatty() else 30,
    )


@torch.inference_mode()
def _evaluate_images(
    predict: Callable[..., Predictions],
    items: list[dict[str, Any]],
    protocols: Sequence[str],
    save_predictions: bool,
) -> list[Record]:
    """Score images in every way under every protocol: a record for each, which JSON can hold."""
    usable = [item for item in items if item["inputs"] is not None]
    asked = [[PROTOCOLS[name].ask(item["data_samples"]) for name in protocols] for item in usable]
    texts = [[question.continuations for question in questions] for questions in asked]
    results = predict([item["inputs"] for item in usable], texts) if usable else {}
    records: list[Record] = []
    place = 0  # among the usable ones
    for item in items:
        sample: GroundingSample = item["data_samples"]
        record: Record = {}
        if item["inputs"] is None:
            skipped = [(key, sample.image_id, sample.skipped) for key in sample.expression_ids]
            record["skipped"] = skipped
        else:
            for way, own in results.items():
                pairs = zip(asked[place], own[place])
                scored = [_score_question(sample, *pair, save_predictions) for pair in pairs]
                record[way] = dict(zip(protocols, scored))
            place += 1
        records.append(record)
    return records


def _predict(
    models: Mapping[str, Any], images: list[ImageInput], questions: list[list[list[Continuation]]]
) -> Predictions:
    if len(models) == 1:  # any that predicts, and a grounder by its feature cache
        return {way: model.predict_images(images, questions) for way, model in models.items()}
    return dict(zip(models, predict_together(list(models.values()), images, questions)))


def _predict_one_by_one(
    models: Mapping[str, Any], images: list[ImageInput], questions: list[list[list[Continuation]]]
) -> Predictions:
    results: Predictions = {way: [] for way in models}
    for image, lists in zip(images, questions):
        for own in results.values():
            own.append([])
        for texts in lists:
            parts = [_predict(models, [image], [[[text]]]) for text in texts]
            for way, own in results.items():
                own[-1].append(join_results([part[way][0][0] for part in parts]))
    return results


def _score_question(
    sample: GroundingSample, question: Question, result: GroundingResult, save_predictions: bool
) -> Record:
    rows = question.rows
    ids = [sample.expression_ids[row] for row in rows]
    asked: Record = {"expression_ids": ids, "gt_masks": sample.gt_masks[rows]}
    for key in ("expression_kinds", "expression_groups"):
        if sample.get(key):
            asked[key] = [sample.get(key)[row] for row in rows]
    if "ignored" in sample:
        asked["ignored"] = sample.ignored
    asked["pred_masks"] = torch.tensor(result.masks)
    if result.coarse_masks is not None:
        asked["coarse_masks"] = torch.tensor(result.coarse_masks)
    problems = [(key, item.problem) for key, item in zip(ids, result) if item.problem]
    record: Record = {"scores": score_expressions(asked), "problems": problems}
    if save_predictions:
        record["predictions"] = _build_predictions(sample, question, result)
    return record


def _build_predictions(
    sample: GroundingSample, question: Question, result: GroundingResult
) -> list[Record]:
    """One COCO-style record per expression; ``segmentation`` is a compressed RLE."""
    records = []
    for row, record in zip(question.rows, result.to_coco()):
        ids = {"expression_id": sample.expression_ids[row], "image_id": sample.image_id}
        record = {**ids, "expression": record.pop("phrase"), **record}
        if sample.get("ref_ids") is not None:
            record["ref_id"] = sample.ref_ids[row]
        records.append(record)
    return records


def _collect(split: EvaluationSplit, records: dict[int, Record], way: str) -> SplitResult:
    """The records of all images, of this run and of a journal, in the data set's order."""
    result = SplitResult(split.dataset_name, split.split, way)
    result.skipped += list(getattr(split.dataset, "skipped", []))
    for name in split.protocols:
        result.scores[name], result.problems[name], result.predictions[name] = [], [], []
    for index in range(split.num_images):
        record = records[index]
        result.skipped += [SkippedExpression(*fields) for fields in record.get("skipped", [])]
        result.images += "skipped" not in record
        for name in split.protocols:
            own = record.get(way, {}).get(name, {})
            result.scores[name] += map(ExpressionScore.from_json, own.get("scores", []))
            result.problems[name] += map(tuple, own.get("problems", []))
            result.predictions[name] += own.get("predictions", [])
    return result


def _count(record: Record) -> int:
    """Scored expressions, of all ways and protocols."""
    ways = [own for own in record.values() if isinstance(own, dict)]
    return sum(len(own["scores"]) for way in ways for own in way.values())
