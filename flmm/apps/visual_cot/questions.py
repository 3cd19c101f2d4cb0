"""Question files in the format of the Visual CoT benchmark.

In: a file or a folder of them, each a JSON list (or ``.jsonl``) of

    {"dataset": "gqa", "split": "val", "question_id": 7,
     "image": ["cot/gqa/1.jpg", "cot/gqa/1.jpg###[217, 343, 242, 393]"],
     "conversations": [{"from": "human", "value": "<image>\\n<the question> Please provide ..."},
                       {"from": "gpt", "value": "[0.542, 0.686, 0.592, 0.786]"},
                       {"from": "human", "value": "<image>"},
                       {"from": "gpt", "value": "<the true answer>"}]}

The box behind ``###`` is xyxy in pixels; a record without one (``image`` a single path) is asked
too. Out: questions, and for each record that is none the reason.

Source: github.com/deepcs233/Visual-CoT, viscot_benchmark/benchmark/*.json.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")

# What the benchmark appends to a question for models that write boxes as text.
_BOX_REQUEST = re.compile(r"\s*Please (?:think step by step and )?provide the bounding box.*", re.S)


class BadQuestionError(ValueError):
    """A record cannot be asked; the message names file and record and says why."""


@dataclass(frozen=True)
class VisualCotQuestion:
    """One question about one picture.

    Attributes:
        source: names file and record in messages.
        dataset: its own name for its data set, else the file's name.
        image: path within the folder of pictures.
        question: without marks and without the request for a box.
        gt_box_xyxy: region that helps to answer, in pixels; ``None``: the record has none.
    """

    source: str
    dataset: str
    question_id: int | str
    image: str
    question: str
    answer: str
    gt_box_xyxy: tuple[float, ...] | None


@dataclass
class QuestionFile:
    """One file: its path, and by a record's place, from 0, the question, or why it is none."""

    path: Path
    questions: dict[int, VisualCotQuestion] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.questions) + len(self.bad)


def read_question_files(path: str | Path) -> list[QuestionFile]:
    """The question files at a path, by name: one ``.json`` or ``.jsonl`` file, or a folder of them.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file is no list of records.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there are no questions at {path}: give a file or a folder")
    paths = [path]
    if path.is_dir():
        paths = sorted(item for item in path.iterdir() if item.suffix in (".json", ".jsonl"))
        if not paths:
            raise FileNotFoundError(f"{path} holds no question file (.json or .jsonl)")
    return [_read_file(item) for item in paths]


def _read_file(path: Path) -> QuestionFile:
    file = QuestionFile(path)
    for place, record in enumerate(_load_records(path)):
        try:
            file.questions[place] = _parse_question(record, path, place)
        except BadQuestionError as error:
            file.bad[place] = str(error)
    return file


def _load_records(path: Path) -> list[Any]:
    """The file's records; a broken line of a ``.jsonl`` stays as the text it is."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [_load_line(line) for line in text.splitlines() if line.strip()]
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(records, list):
        raise ValueError(f"{path} holds a {type(records).__name__}: give a JSON list of questions")
    return records


def _load_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _parse_question(record: Any, path: Path, place: int) -> VisualCotQuestion:
    source = f"{path.name} record {place}"
    if not isinstance(record, dict):
        raise BadQuestionError(f"{source} is a {type(record).__name__}, not an object of fields")
    question_id = record.get("question_id", record.get("id"))
    if not isinstance(question_id, (int, str)):
        raise BadQuestionError(f"{source} has no question_id (a number or a text)")
    source += f" (question_id {question_id})"
    image, box = _take(record, "image", _parse_image, source)
    question, answer = _take(record, "conversations", _parse_conversations, source)
    dataset = str(record.get("dataset") or path.stem)
    return VisualCotQuestion(source, dataset, question_id, image, question, answer, box)


def _take(record: dict[str, Any], name: str, parse: Callable[[Any], Value], source: str) -> Value:
    if name not in record:
        raise BadQuestionError(f"{source} has no field {name!r}")
    try:
        return parse(record[name])
    except ValueError as error:
        raise BadQuestionError(f"{source}, field {name!r}: {error}") from error


def _parse_image(value: Any) -> tuple[str, tuple[float, ...] | None]:
    """The picture's path, and the box of the last entry that has one."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{value!r} is no path and no list of paths")
    if not all(isinstance(entry, str) and entry.strip() for entry in entries):
        raise ValueError(f"{value!r} holds something that is no path")
    parts = [entry.partition("###") for entry in entries]
    boxes = [box for _, mark, box in parts if mark]
    return parts[0][0], _parse_box(boxes[-1]) if boxes else None


def _parse_box(text: str) -> tuple[float, ...]:
    """``"[x0, y0, x1, y1]"`` as numbers."""
    try:
        box = tuple(float(number) for number in text.strip().strip("[]").split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise ValueError(f"the box {text!r} is not of the form [x0, y0, x1, y1]")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"the box {text!r} has no area")
    return box


def _parse_conversations(value: Any) -> tuple[str, str]:
    """The question and the true answer: the first and the last thing said."""
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError("it is no list of a question and an answer")
    told = [turn.get("value") if isinstance(turn, dict) else None for turn in value]
    values = [text for text in told if isinstance(text, str)]
    if len(values) < len(told):
        raise ValueError("a turn has no text under 'value'")
    if value[-1].get("from") not in (None, "gpt"):
        raise ValueError(f"the last turn is from {value[-1]['from']!r}, the answer is missing")
    question = _BOX_REQUEST.sub("", values[0].replace("<image>", "")).strip()
    if not question:
        raise ValueError("the question is blank")
    if not values[-1].strip():
        raise ValueError("the true answer is blank")
    return question, values[-1].strip()
