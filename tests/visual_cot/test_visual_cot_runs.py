"""Files of questions: the result format, its scores, bad records, kills, several processes."""

import json
import time

import pytest
from PIL import Image

from flmm.apps.visual_cot import VERSIONS, VisualCotOptions, run_visual_cot
from flmm.apps.visual_cot.runs import build_rows, list_cells
from flmm.config import load_config
from flmm.evaluation.answer_scores import score_answer
from flmm.tables import format_text
from flmm.toy.shape_sentences import render_samples
from tests.forks import Fork, finish_ranks, start_ranks
from tests.visual_cot.shape_questions import write_questions

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
SETTINGS = {
    "visual_cot.naming_prompt": "{question}",
    "visual_cot.naming_begin": "the",
    "visual_cot.max_new_tokens": 8,
}
# What F-LMM's script writes, in its order, and what its judge reads.
FLMM_KEYS = ["thought", "box", "gt_bbox", "answer", "question_id", "question", "image", "gt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Questions about nine scenes."""
    folder = tmp_path_factory.mktemp("benchmark")
    write_questions(folder, count=9, seed=4)
    return folder


def run(folder, out, version="v1", questions=None, **options):
    config = load_config(TINY, SETTINGS)
    questions = questions or folder / "shapes.json"
    paths = {"questions": str(questions), "images": str(folder), "out": str(out)}
    return run_visual_cot(config, VisualCotOptions(**paths, version=version, **options))


@pytest.fixture(scope="module")
def whole_run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "results.json"
    return out, run(folder, out)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_result_file_is_flmms_and_its_scores_can_be_computed_again(
    folder, tmp_path, capsys, version
):
    out = tmp_path / "new" / f"{version}.json"
    report = run(folder, out, version, limit=4)
    records = json.loads(out.read_text())
    truths = json.loads((folder / "shapes.json").read_text())[:4]
    assert len(records) == 4
    for record, truth in zip(records, truths):
        assert list(record)[: len(FLMM_KEYS)] == FLMM_KEYS
        assert "score" not in record  # the judge's own key
        assert record["question"] in truth["conversations"][0]["value"]
        assert "bounding box" not in record["question"]
        assert record["gt"] == truth["conversations"][-1]["value"]
        assert (record["question_id"], record["image"]) == (truth["question_id"], truth["image"][0])
        assert truth["image"][1].endswith(f"###{record['gt_bbox']}")
        assert record.items() >= score_answer(record["answer"], [record["gt"]]).items()
        if version == "v3":
            assert (record["box_iou"], record["pointed_box"]) == (None, None)
        elif record["pointed_box"] is not None:
            assert record["box_iou"] == pytest.approx(compute_iou(record))
    assert report["rows"] == build_rows(records)
    saved = json.loads((tmp_path / "new" / f"{version}_scores.json").read_text())
    assert saved == json.loads(json.dumps(report))
    assert saved["run"]["version"] == version and len(saved["run"]["sha256"]) == 64
    table = format_text(list_cells(report["rows"]))
    assert table in capsys.readouterr().out and "word F1" in table
    assert "| shapes | 4 |" in (tmp_path / "new" / f"{version}_scores.md").read_text()


def compute_iou(record):
    """Counted on pixels."""
    covered = []
    for x0, y0, x1, y1 in (record["pointed_box"], record["gt_bbox"]):
        covered.append({(x, y) for x in range(x0, x1) for y in range(y0, y1)})
    return len(covered[0] & covered[1]) / len(covered[0] | covered[1])


def build_record(dataset, exact, iou, whole_picture=None):
    return {
        "dataset": dataset,
        "exact_match": exact,
        "anls": exact,
        "word_f1": 0.5,
        "box_iou": iou,
        "whole_picture": whole_picture,
    }


def test_rows_per_data_set_and_overall():
    records = [build_record("gqa", 1.0, 0.75), build_record("gqa", 0.0, 0.25)]
    records += [build_record("gqa", 0.0, 0.0, "empty"), build_record("cub", 1.0, None)]
    gqa, cub, everything, mean = build_rows(records)
    names = [row["dataset"] for row in (gqa, cub, everything, mean)]
    assert names == ["gqa", "cub", "all", "mean of data sets"]
    assert gqa["exact_match"] == pytest.approx(100 / 3) and cub["exact_match"] == 100
    assert everything["exact_match"] == 50 and mean["exact_match"] == pytest.approx(200 / 3)
    assert gqa["box_iou"] == pytest.approx(100 / 3) == mean["box_iou"]
    assert gqa["box_accuracy@0.5"] == pytest.approx(100 / 3) and cub["box_iou"] is None
    assert [row["questions"] for row in (gqa, cub, everything, mean)] == [3, 1, 4, 4]
    assert [row["whole_picture"] for row in (gqa, cub, everything, mean)] == [1, 0, 1, 1]
    assert format_text(list_cells([cub])).split()[-2:] == ["-", "0"]


def test_bad_records_are_listed_and_asked_again(folder, tmp_path, capsys):
    records = json.loads((folder / "shapes.json").read_text())[:4]
    records[1]["image"][0] = "cot/shapes/later.png"
    records[2]["image"] = ["cot/shapes/2.png###[1, 2]"]
    questions = tmp_path / "mixed.json"
    questions.write_text(json.dumps(records))
    (folder / "cot/shapes/later.png").write_bytes(b"\x89PNG")
    report = run(folder, tmp_path / "out.json", "v3", questions)
    missing, broken = report["bad"]
    assert missing.startswith("mixed.json record 1 (question_id 10): ") and "later.png" in missing
    assert broken.startswith("mixed.json record 2 (question_id 20), field 'image': the box")
    printed = capsys.readouterr().out
    assert "records that could not be asked, in no figure: 2" in printed and missing in printed
    assert missing in (tmp_path / "out_scores.md").read_text()
    ids = [record["question_id"] for record in json.loads((tmp_path / "out.json").read_text())]
    assert ids == [0, 30]
    Image.fromarray(render_samples(1, 3)[0].image).save(folder / "cot/shapes/later.png")
    report = run(folder, tmp_path / "out.json", "v3", questions)
    assert report["bad"] == [broken]
    ids = [record["question_id"] for record in json.loads((tmp_path / "out.json").read_text())]
    assert ids == [0, 10, 30]


def test_a_limit_is_a_beginning_and_restart_forgets(folder, tmp_path, capfd):
    out = tmp_path / "out.json"
    run(folder, out, "v3", limit=2)
    first = json.loads(out.read_text())
    run(folder, out, "v3", limit=3)
    assert "shapes: 2 questions were done before" in capfd.readouterr().out
    assert json.loads(out.read_text())[:2] == first
    run(folder, out, "v3", limit=3, restart=True)
    assert "done before" not in capfd.readouterr().out
    run(folder, out, "v2", limit=2)  # another version has a journal of its own
    assert "done before" not in capfd.readouterr().out
    assert [record["version"] for record in json.loads(out.read_text())] == ["v2"] * 2


def build_command(folder, out):
    options = [f"{name}={value}" for name, value in SETTINGS.items()]
    command = ["tools/visual_cot.py", TINY, "--version", "v1"]
    command += ["--questions", folder / "shapes.json", "--images", folder, "--out", out]
    return [*command, "--cfg-options", *options]


ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": ""}


def count_lines(out):
    journals = out.with_suffix(".journal").glob("*/rank*.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in journals)


@pytest.mark.process
def test_killed_and_started_again_the_file_is_the_same(folder, whole_run, tmp_path, capfd):
    out = tmp_path / "results.json"
    process = Fork(*build_command(folder, out), **ENVIRONMENT)
    deadline = time.time() + 300
    while count_lines(out) < 3 and time.time() < deadline:
        time.sleep(0.01)
    process.kill()
    done = count_lines(out)
    assert 3 <= done < 9 and not out.exists()
    report = run(folder, out)
    assert f"shapes: {done} questions were done before" in capfd.readouterr().out
    assert out.read_bytes() == whole_run[0].read_bytes()
    assert (report["rows"], count_lines(out)) == (whole_run[1]["rows"], 9)


@pytest.mark.process
def test_two_processes_write_the_same_file(folder, whole_run, tmp_path):
    command = [*build_command(folder, tmp_path / "results.json"), "--launcher", "pytorch"]
    texts = finish_ranks(start_ranks(*command, **ENVIRONMENT))
    assert (tmp_path / "results.json").read_bytes() == whole_run[0].read_bytes()
    assert len(list(tmp_path.glob("results.journal/*/rank1.jsonl"))) == 1
    assert "word F1" in texts[0] and "word F1" not in texts[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "results.txt"}, "name that ends with .json"),
        ({"images": "no_such_folder"}, "no_such_folder is no folder"),
        ({"questions": "no_such.json"}, "no questions at no_such.json"),
        ({"limit": 0}, "--limit 0: give at least 1"),
    ],
)
def test_what_cannot_run_is_told_before_the_model_is_built(folder, tmp_path, changes, message):
    paths = {"questions": folder / "shapes.json", "images": folder, "out": tmp_path / "out.json"}
    options = VisualCotOptions(**{name: str(path) for name, path in paths.items()} | changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_visual_cot(load_config(TINY), options)


def test_not_one_question(folder, tmp_path):
    with pytest.raises(ValueError, match="no question could be asked; the first: shapes"):
        run(tmp_path, tmp_path / "out.json", questions=folder / "shapes.json", limit=2)
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(ValueError, match=r"no question could be asked$"):
        run(folder, tmp_path / "out.json", questions=tmp_path / "empty.json")
