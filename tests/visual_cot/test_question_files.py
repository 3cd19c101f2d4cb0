"""Question files in the benchmark's format: what is read, and what is told about bad records."""

import copy
import json

import pytest

from flmm.apps.visual_cot.questions import VisualCotQuestion, read_question_files
from tests.visual_cot.shape_questions import REQUEST

# As the benchmark's gqa.json has them.
RECORD = {
    "dataset": "gqa",
    "split": "val",
    "question_id": 7,
    "image": ["cot/gqa/2316539.jpg", "cot/gqa/2316539.jpg###[217, 343, 242, 393]"],
    "conversations": [
        {"from": "human", "value": f"<image>\nWhat is in front of the trees?{REQUEST}"},
        {"from": "gpt", "value": "[0.542, 0.686, 0.592, 0.786]"},
        {"from": "human", "value": "<image>"},
        {"from": "gpt", "value": "window "},
    ],
}


def write(path, records):
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def change(**fields):
    record = copy.deepcopy(RECORD) | fields
    return {name: value for name, value in record.items() if value is not None}


def test_a_record_of_the_benchmark(tmp_path):
    (file,) = read_question_files(write(tmp_path / "gqa.json", [RECORD]))
    assert (len(file), file.bad) == (1, {})
    assert file.questions[0] == VisualCotQuestion(
        source="gqa.json record 0 (question_id 7)",
        dataset="gqa",
        question_id=7,
        image="cot/gqa/2316539.jpg",
        question="What is in front of the trees?",
        answer="window",
        gt_box_xyxy=(217.0, 343.0, 242.0, 393.0),
    )


def test_folders_lines_and_records_with_fewer_fields(tmp_path):
    plain = change(image="a.png", dataset=None, question_id=None, id="q1")
    plain["conversations"] = [{"value": "Is it red? "}, {"from": "gpt", "value": "no"}]
    lines = [json.dumps(RECORD), "", '{"question_id": 8', json.dumps(plain)]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    write(tmp_path / "a.json", [RECORD])
    (tmp_path / "notes.txt").write_text("no questions")
    first, second = read_question_files(tmp_path)
    assert (first.path.name, second.path.name) == ("a.json", "b.jsonl")
    assert list(second.questions) == [0, 2] and list(second.bad) == [1]
    assert second.bad[1] == "b.jsonl record 1 is a str, not an object of fields"
    question = second.questions[2]
    assert (question.dataset, question.question_id, question.gt_box_xyxy) == ("b", "q1", None)
    assert (question.question, question.answer) == ("Is it red?", "no")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([], "record 1 is a list"),
        (change(question_id=None), "record 1 has no question_id"),
        (change(image=None), "(question_id 7) has no field 'image'"),
        (change(image=[]), "field 'image': [] is no path"),
        (change(image=["a.jpg", 3]), "holds something that is no path"),
        (change(image=["a.jpg", "a.jpg###[1, 2, 3]"]), "not of the form [x0, y0, x1, y1]"),
        (change(image=["a.jpg", "a.jpg###[1, 2, x, 4]"]), "not of the form"),
        (change(image=["a.jpg", "a.jpg###[1, 2, nan, 4]"]), "not of the form"),
        (change(image=["a.jpg", "a.jpg###[5, 2, 5, 4]"]), "has no area"),
        (change(conversations=None), "has no field 'conversations'"),
        (change(conversations=RECORD["conversations"][:1]), "no list of a question and an answer"),
        (change(conversations=RECORD["conversations"][:3]), "the answer is missing"),
        (change(conversations=[{"value": "a?"}, {"text": "b"}]), "has no text under 'value'"),
        (change(conversations=[{"value": f"<image>{REQUEST}"}, {"value": "b"}]), "is blank"),
        (change(conversations=[{"value": "a?"}, {"value": " "}]), "the true answer is blank"),
    ],
)
def test_bad_records_are_listed_with_file_record_and_reason(tmp_path, record, reason):
    (file,) = read_question_files(write(tmp_path / "gqa.json", [RECORD, record, RECORD]))
    assert list(file.questions) == [0, 2] and list(file.bad) == [1]
    assert file.bad[1].startswith("gqa.json record 1") and reason in file.bad[1]


def test_files_that_hold_no_questions(tmp_path):
    with pytest.raises(FileNotFoundError, match="no question file"):
        read_question_files(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no questions at .*x\.json"):
        read_question_files(tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"x\.json holds a dict"):
        read_question_files(write(tmp_path / "x.json", {"a": 1}))
    (tmp_path / "x.json").write_text("[{")
    with pytest.raises(ValueError, match=r"x\.json cannot be read as JSON"):
        read_question_files(tmp_path / "x.json")
