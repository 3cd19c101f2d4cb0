"""What tools/visual_cot.py does: every question of some files, answered once, on any processes.

The results do not depend on the number of processes and interruptions: every answer is in a journal
as soon as it is known. Records that cannot be asked are tried again by the next run. The result
file has the keys of F-LMM's (scripts/visual_cot/visual_cot_inference.py), so that its judge
(gpt_eval_cot_score_single.py, which adds ``score``) reads it, and further keys of ours.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.config import Config
from torchvision.ops import box_iou
from tqdm import tqdm

from flmm.apps.visual_cot.chain import VisualCot, VisualCotAnswer
from flmm.apps.visual_cot.questions import (
    BadQuestionError,
    QuestionFile,
    VisualCotQuestion,
    read_question_files,
)
from flmm.apps.visual_cot.settings import build_settings
from flmm.checkpoints.chosen_weights import choose_weights, tell_weights
from flmm.distributed import init_processes
from flmm.evaluation import compute_accuracy_at, compute_miou
from flmm.evaluation.answer_scores import score_answer
from flmm.evaluation.journal import Journal
from flmm.files import replace_file
from flmm.fingerprints import hash_file, hash_json
from flmm.images import load_image
from flmm.inferencer import GroundingInferencer
from flmm.provenance import describe_device, describe_model, list_versions
from flmm.readers.prompts import ContextFullError
from flmm.tables import format_markdown, format_text, tabulate

Record = dict[str, Any]
Row = dict[str, Any]
ALL, MEAN = "all", "mean of data sets"
_SCORES = ("exact_match", "anls", "word_f1")
_TITLES = {
    "dataset": "data set",
    "questions": "questions",
    "exact_match": "exact match",
    "anls": "ANLS",
    "word_f1": "word F1",
    "box_iou": "box IoU",
    "box_accuracy@0.5": "box acc@0.5",
    "whole_picture": "whole picture",
}


@dataclass
class VisualCotOptions:
    """What the tool is told beside the config; see ``tools/visual_cot.py --help``."""

    questions: str
    images: str
    out: str
    version: str = "v1"
    checkpoint: str | None = None
    limit: int | None = None
    restart: bool = False
    device: str | None = None


def run_visual_cot(config: Config, options: VisualCotOptions) -> dict[str, Any]:
    """Answer the questions, write the results, print the table; gives the report.

    It has ``title``, ``rows`` in percent, ``bad`` (a sentence per record that could not be asked)
    and, under ``run``, where the figures come from.

    Raises:
        FileNotFoundError: there are no questions, or no folder of pictures.
        ValueError: a file or a setting cannot be used, or not one question could be asked.
    """
    _check(options)
    files = read_question_files(options.questions)
    settings = build_settings(config.get("visual_cot") or {})
    init_processes(config.get("launcher", "none"))
    inferencer = GroundingInferencer(config, options.checkpoint, options.device)
    tell_weights(inferencer.weights)
    visual_cot = VisualCot(inferencer, options.version, settings)
    run = _describe_run(visual_cot, config, options)
    records, bad = [], []
    for file in files:
        answered, reasons = _run_file(visual_cot, file, options, run)
        records += answered
        bad += reasons
    if not records:
        raise ValueError("no question could be asked" + (f"; the first: {bad[0]}" if bad else ""))
    report: dict[str, Any] = {
        "title": f"Visual chain of thought, {options.version}",
        "rows": build_rows(records),
        "bad": bad,
        "run": {"config": str(config.filename), "limit": options.limit, **run}
        | {"processes": dist.get_world_size()},
    }
    if dist.is_main_process():
        paths = write_results(Path(options.out), records, report)
        print(format_text(list_cells(report["rows"])))
        if bad:
            print(_format_bad(bad, 5))
        print(f"written: {', '.join(map(str, paths))}")
    dist.barrier()
    return report


def _check(options: VisualCotOptions) -> None:
    if Path(options.out).suffix != ".json":
        raise ValueError(f"--out {options.out}: give the result file a name that ends with .json")
    if not Path(options.images).is_dir():
        raise FileNotFoundError(f"--images {options.images} is no folder")
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit}: give at least 1, or leave it out")


def _describe_run(
    visual_cot: VisualCot, config: Config, options: VisualCotOptions
) -> dict[str, Any]:
    """All that decides the answers beside the files."""
    inferencer = visual_cot.inferencer
    run = choose_weights(config, options.checkpoint).to_json()
    run |= {"version": options.version, "images": str(options.images)}
    run |= {"settings": asdict(visual_cot.settings)} | describe_model(inferencer.model)
    return run | {"device": describe_device(inferencer.device), "versions": list_versions()}


def _run_file(
    visual_cot: VisualCot, file: QuestionFile, options: VisualCotOptions, run: dict[str, Any]
) -> tuple[list[Record], list[str]]:
    """The records of one file in its order, and why others could not be asked."""
    rank, world_size, name = dist.get_rank(), dist.get_world_size(), file.path.stem
    content = hash_json([run, hash_file(file.path)])[:12]
    folder = Path(options.out).with_suffix(".journal") / f"{name}_{content}"
    if options.restart and dist.is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
    dist.barrier()
    journal = Journal(folder, rank)
    dist.barrier()  # nobody appends before everybody has read
    places = range(min(len(file), options.limit or len(file)))
    asked = [place for place in places if place in file.questions]
    wanted = [place for place in asked if place not in journal.records]
    if len(wanted) < len(asked):
        done = len(asked) - len(wanted)
        dist.master_only(tqdm.write)(f"{name}: {done} questions were done before, going on")
    bad = {place: file.bad[place] for place in places if place in file.bad}
    own: dict[int, Record] = {}
    # Neighbours stay together: questions about one picture share its reading.
    first, last = (len(wanted) * number // world_size for number in (rank, rank + 1))
    pace = 0.2 if sys.stderr.isatty() else 30  # seconds; in a log file a line now and then
    hidden = not dist.is_main_process()
    for place in tqdm(wanted[first:last], name, unit="question", disable=hidden, mininterval=pace):
        try:
            own[place] = _ask(visual_cot, file.questions[place], Path(options.images))
        except BadQuestionError as error:
            bad[place] = str(error)
        else:
            journal.append(place, own[place])
    journal.close()
    for others, reasons in dist.all_gather_object((own, bad)):
        journal.records |= others
        bad |= reasons
    records = [journal.records[place] for place in asked if place not in bad]
    return records, [bad[place] for place in sorted(bad)]


def _ask(visual_cot: VisualCot, question: VisualCotQuestion, images: Path) -> Record:
    """The record of one question; an error where its picture cannot be read, or is too large."""
    try:
        encode = visual_cot.inferencer.model.vlm.image_processor.encode
        picture = encode(load_image(images / question.image, orientation="stored"))
    except (OSError, ValueError) as error:
        raise BadQuestionError(f"{question.source}: {error}") from error
    try:
        answer = visual_cot(picture, question.question)
    except ContextFullError as error:
        raise BadQuestionError(f"{question.source}: {error}") from error
    return build_record(question, answer, visual_cot.version)


def build_record(question: VisualCotQuestion, answer: VisualCotAnswer, version: str) -> Record:
    """One line of the result file.

    ``box`` is what was looked at last, ``pointed_box`` the mask's own box or ``None``. ``box_iou``
    compares the latter with the file's box: 0 where nothing was pointed at, ``None`` in v3 and
    without a box in the file. ``whole_picture`` says why the whole picture took the part's place.
    """
    truth = question.gt_box_xyxy
    iou = None
    if truth is not None and version != "v3":
        boxes = (answer.pointed_box_xyxy or (0,) * 4, truth)
        iou = float(box_iou(*(torch.tensor([box], dtype=torch.float64) for box in boxes)))
    return {
        "thought": answer.thought,
        "box": list(answer.box_xyxy),
        "gt_bbox": _list_edges(truth),
        "answer": answer.answer,
        "question_id": question.question_id,
        "question": question.question,
        "image": question.image,
        "gt": question.answer,
        "dataset": question.dataset,
        "version": version,
        "pointed_box": _list_edges(answer.pointed_box_xyxy),
        "pointed_score": answer.score,
        "box_iou": iou,
        "whole_picture": answer.fallback,
        "end_reason": answer.end_reason,
        **score_answer(answer.answer, [question.answer]),
    }


def _list_edges(box: Sequence[float] | None) -> list[float] | None:
    """A box for JSON: whole numbers as such."""
    return None if box is None else [int(edge) if edge == int(edge) else edge for edge in box]


def build_rows(records: Sequence[Record]) -> list[Row]:
    """Figures in percent: a row per data set, one of all questions, and the data sets' mean."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["dataset"], []).append(record)
    rows = [_summarise(name, own) for name, own in groups.items()]
    return rows if len(rows) == 1 else [*rows, _summarise(ALL, records), _average(rows)]


def _summarise(name: str, records: Sequence[Record]) -> Row:
    ious = [record["box_iou"] for record in records if record["box_iou"] is not None]
    row: Row = {"dataset": name, "questions": len(records)}
    row |= {key: 100 * compute_miou([record[key] for record in records]) for key in _SCORES}
    row["box_iou"] = 100 * compute_miou(ious) if ious else None
    row["box_accuracy@0.5"] = 100 * compute_accuracy_at(ious, 0.5) if ious else None
    return row | {"whole_picture": sum(record["whole_picture"] is not None for record in records)}


def _average(rows: Sequence[Row]) -> Row:
    """The mean of the data sets' figures, each counted once, as Visual CoT's own table does."""
    average: Row = {"dataset": MEAN}
    for key in rows[0].keys() - {"dataset"}:
        values = [row[key] for row in rows if row[key] is not None]
        average[key] = sum(values) / len(values) if values else None
    counts = {key: sum(row[key] for row in rows) for key in ("questions", "whole_picture")}
    return average | counts


def list_cells(rows: Sequence[Row]) -> list[list[Any]]:
    """The rows of :func:`build_rows` as a header and cells."""
    return tabulate(rows, _TITLES)


def _format_bad(reasons: Sequence[str], count: int) -> str:
    """Records that could not be asked, as lines; only the first ``count`` are named."""
    lines = [f"records that could not be asked, in no figure: {len(reasons)}"]
    lines += [f"  {reason}" for reason in reasons[:count]]
    lines += [f"  and {len(reasons) - count} more"] if len(reasons) > count else []
    return "\n".join(lines)


def write_results(out: Path, records: Sequence[Record], report: dict[str, Any]) -> list[Path]:
    """Write the result file, and the report as JSON and Markdown beside it; gives the paths."""
    scores = out.with_name(f"{out.stem}_scores.json")
    table = format_markdown(list_cells(report["rows"]))
    reasons = report["bad"]
    bad = [f"```\n{_format_bad(reasons, len(reasons))}\n```"] if reasons else []
    run = "\n".join(f"- {key}: {value}" for key, value in report["run"].items())
    page = "\n\n".join([f"# {report['title']}", "Percent.", table, *bad, run])
    texts = {
        out: json.dumps(records, indent=4),
        scores: json.dumps(report, indent=2),
        scores.with_suffix(".md"): page,
    }
    for path, text in texts.items():
        replace_file(path, f"{text}\n".encode())
    return list(texts)
