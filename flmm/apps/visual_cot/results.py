"""What a run of questions says in the end: F-LMM's result file, and a table of scores.

In: questions and answers. Out: one record per question, JSON ready; rows in percent; text. The
records have the keys of F-LMM's results (scripts/visual_cot/visual_cot_inference.py), so that its
judge (gpt_eval_cot_score_single.py, which adds ``score``) reads them, and further keys of ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision.ops import box_iou

from flmm.apps.visual_cot.chain import VisualCotAnswer
from flmm.apps.visual_cot.questions import VisualCotQuestion
from flmm.evaluation import compute_accuracy_at, compute_miou
from flmm.evaluation.answer_scores import score_answer
from flmm.files import replace_file
from flmm.tables import format_markdown, tabulate

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


def build_record(question: VisualCotQuestion, answer: VisualCotAnswer, version: str) -> Record:
    """One line of the result file.

    ``box`` is what was looked at last, ``pointed_box`` the mask's own box or ``None``. ``box_iou``
    compares the latter with the file's box: 0 where nothing was pointed at, ``None`` in v3 and
    without a box in the file. ``whole_picture`` says why the whole picture took the part's place.
    """
    truth = question.gt_box_xyxy
    iou = None
    if truth is not None and version != "v3":
        pointed = answer.pointed_box_xyxy
        boxes = [torch.tensor([box], dtype=torch.float64) for box in (pointed or (0,) * 4, truth)]
        iou = float(box_iou(*boxes))
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
    """Figures in percent: a row per data set, one of all questions, and the data sets' mean.

    Args:
        records: of :func:`build_record`.
    """
    names = list(dict.fromkeys(record["dataset"] for record in records))
    rows = [
        _summarise(name, [record for record in records if record["dataset"] == name])
        for name in names
    ]
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


def format_bad(reasons: Sequence[str], count: int | None = 5) -> str:
    """Records that could not be asked, as lines; only the first ``count`` are named."""
    if not reasons:
        return ""
    lines = [f"records that could not be asked, in no figure: {len(reasons)}"]
    lines += [f"  {reason}" for reason in reasons[:count]]
    if count is not None and len(reasons) > count:
        lines.append(f"  and {len(reasons) - count} more")
    return "\n".join(lines)


def write_results(out: Path, records: Sequence[Record], report: dict[str, Any]) -> list[Path]:
    """Write the result file, and the report as JSON and Markdown beside it; gives the paths.

    The report has ``title``, ``rows``, ``bad`` and, under ``run``, where the figures come from.
    """
    scores = out.with_name(f"{out.stem}_scores.json")
    table = format_markdown(list_cells(report["rows"]))
    bad = [f"```\n{format_bad(report['bad'], None)}\n```"] if report["bad"] else []
    run = "\n".join(f"- {key}: {value}" for key, value in report["run"].items())
    texts = {
        out: json.dumps(records, indent=4),
        scores: json.dumps(report, indent=2),
        scores.with_suffix(".md"): "\n\n".join(
            [f"# {report['title']}", "Percent.", table, *bad, run]
        ),
    }
    for path, text in texts.items():
        replace_file(path, f"{text}\n".encode())
    return list(texts)
