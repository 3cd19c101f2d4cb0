"""tools/eval_refcoco.py and eval_png.py as users call them: killed, and on several processes."""

import json
import time

import pytest

from flmm.toy.shape_files import write_dataset
from tests.forks import Fork, finish_ranks, run_fork, start_ranks

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": ""}
SPLITS = ("val", "testB")

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools") / "shapes"
    write_dataset(folder, num_images=100, seed=5)  # 5 images a split: two processes share oddly
    return folder


def build_command(folder, work, *arguments):
    options = [f"data_root={folder}"]
    tail = [
        "--work-dir",
        work,
        "--num-workers",
        "0",
        "--batch-size",
        "2",
        "--splits",
        *SPLITS,
        *arguments,
        "--cfg-options",
        *options,
    ]
    return ["tools/eval_refcoco.py", TINY, "--protocol", "both", *tail]


def run(command):
    done = run_fork(*command, **ENVIRONMENT)
    return done.returncode, done.stdout + done.stderr


def read_figures(work):
    """The report without what a run's speed and size say."""
    report = json.loads((work / "eval_refcoco" / "eval_refcoco.json").read_text())
    rows = [{k: v for k, v in row.items() if "second" not in k} for row in report["rows"]]
    return rows, report["skipped"], report["problems"]


@pytest.fixture(scope="module")
def one_process(folder, tmp_path_factory):
    work = tmp_path_factory.mktemp("one")
    code, text = run(build_command(folder, work))
    assert code == 0, text
    assert "P@0.9" in text and "eval_refcoco.md" in text
    return read_figures(work)


def test_both_protocols_with_and_without_refiner(one_process):
    rows, skipped, _ = one_process
    keys = [(row["split"], row["protocol"], row["mask"]) for row in rows if row["group"] == "all"]
    stages = ("refined", "coarse")
    assert keys == [
        (split, protocol, mask)
        for split in SPLITS
        for protocol in ("standard", "flmm")
        for mask in stages
    ]
    assert skipped == []
    standard = [row for row in rows if row["group"] == "all" and row["protocol"] == "standard"]
    for refined, coarse in zip(standard[::2], standard[1::2]):
        assert refined["cIoU"] > coarse["cIoU"] > 40  # the embedded model really grounds


def test_two_processes_give_the_same_figures_to_the_last_digit(folder, one_process, tmp_path):
    command = build_command(folder, tmp_path, "--launcher", "pytorch")
    finish_ranks(start_ranks(*command, **ENVIRONMENT))
    assert read_figures(tmp_path) == one_process
    assert len(list(tmp_path.glob("eval_refcoco/journal/*/rank1.jsonl"))) == 2


def test_killed_and_started_again_nothing_is_lost_or_counted_twice(folder, one_process, tmp_path):
    command = build_command(folder, tmp_path)
    process = Fork(*command, **ENVIRONMENT)
    deadline = time.time() + 300
    while sum(map(count_lines, tmp_path.rglob("rank0.jsonl"))) < 7 and time.time() < deadline:
        time.sleep(0.02)
    process.kill()
    done = sum(map(count_lines, tmp_path.rglob("rank0.jsonl")))
    assert 7 <= done < 10 and not list(tmp_path.rglob("eval_refcoco.json"))
    code, text = run(command)
    assert code == 0, text
    assert "5 images were done before" in text
    assert read_figures(tmp_path) == one_process
    assert sum(map(count_lines, tmp_path.rglob("rank0.jsonl"))) == 10


def count_lines(path):
    return path.read_bytes().count(b"\n")
