"""tools/check_vlm.py: ready, or what is wrong."""

import json
from pathlib import Path

import pytest
from transformers import Qwen3VLModel

from flmm.readers import check
from flmm.readers.check import run_check
from flmm.readers.prompts import PlainTextTokenizer
from tests.forks import run_fork
from tests.small_models import save_small_folder

TOOL = Path(__file__).parents[2] / "tools" / "check_vlm.py"


@pytest.fixture(scope="module")
def folder(data_dir, tmp_path_factory):
    return save_small_folder(data_dir, "qwen3_vl", tmp_path_factory.mktemp("vlm"))


@pytest.mark.process
def test_the_tool_says_ready(folder, data_dir, tmp_path):
    out = tmp_path / "report.json"
    picture = data_dir / "coco" / "000000000785.jpg"
    arguments = [folder, "--json", out, "--image", picture, "--device", "cpu"]
    finished = run_fork(TOOL, *arguments)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "ready"
    report = json.loads(out.read_text())
    assert report["problems"] == []
    assert report["model"]["family"] == "qwen3_vl" and report["model"]["maps"] == 16
    assert [len(grid["box"]) for grid in report["prefix"]["grids"]] == [4]
    assert "<|image_pad|>" in report["model"]["prompt"]
    assert report["comparison"]["relative_difference"] < 1e-5
    assert report["comparison"]["attend"]["seconds"] > 0


def test_what_cannot_be_loaded_is_said(tmp_path):
    lines = []
    out = tmp_path / "report.json"
    code = run_check(tmp_path / "nothing", json_path=out, device="cpu", say=lines.append)
    assert code == 1
    assert lines[-1].startswith("not ready: OSError: no model can be loaded")
    assert json.loads(out.read_text())["problems"]


def test_a_difference_is_shown_layer_by_layer(folder, monkeypatch):
    read_eagerly = check.read_eagerly

    def read_more(*args):
        return [1.5 * maps for maps in read_eagerly(*args)]

    monkeypatch.setattr(check, "read_eagerly", read_more)
    lines = []
    assert run_check(folder, device="cpu", say=lines.append) == 1
    assert any("layer   3" in line for line in lines)
    assert lines[-1].startswith("not ready: attend differs from one eager pass per phrase by")


def test_positions_other_than_the_published_are_named(folder, monkeypatch):
    locate = Qwen3VLModel.get_rope_index

    def shift_text(self, *args, **kwargs):
        positions, deltas = locate(self, *args, **kwargs)
        positions[..., -1] += 1
        return positions, deltas

    monkeypatch.setattr(Qwen3VLModel, "get_rope_index", shift_text)
    lines = []
    assert run_check(folder, device="cpu", say=lines.append) == 1
    assert lines[-1].startswith("not ready: RuntimeError: transformers ")
    assert "places 1 of " in lines[-1] and "elsewhere than the published rule" in lines[-1]


def test_tokens_other_than_the_processors_are_shown(folder, monkeypatch):
    def forget_a_word(self, before, prompt, after, is_first=True):
        ids, tokens = encode(self, before, prompt, after, is_first)
        return [*ids[:-5], *ids[-4:]], tokens

    encode = PlainTextTokenizer.encode_template
    monkeypatch.setattr(PlainTextTokenizer, "encode_template", forget_a_word)
    lines = []
    assert run_check(folder, device="cpu", say=lines.append) == 1
    (line,) = [line for line in lines if "the processor writes" in line]
    assert line.startswith("not ready: the prompt has ") and "they differ from token" in line


def test_a_model_with_tiles_is_checked_on_all_its_grids(data_dir, tmp_path):
    folder = save_small_folder(data_dir, "llava_next", tmp_path / "vlm")
    out, lines = tmp_path / "report.json", []
    assert run_check(folder, device="cpu", json_path=out, say=lines.append) == 0
    report = json.loads(out.read_text())
    assert [grid["size"] for grid in report["prefix"]["grids"]] == [[6, 8], [4, 4]]
    assert report["model"]["channels"] == 2 * report["model"]["maps"]
    assert any(line.startswith("  grid 1") and line.endswith("px") for line in lines)
