"""The whole experiment with random weights, at its smallest: the ordinary tools, one by one."""

import json
import sys
from pathlib import Path

import pytest

from flmm.benchmarks import rehearsal
from flmm.benchmarks.rehearsal import RehearsalSettings, rehearse, run_tool_file

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def in_this_process(monkeypatch):
    """To start five processes takes longer than what they do."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(rehearsal, "run_apart", lambda call, *given: call(*given))


@pytest.mark.usefixtures("size", "in_this_process")
@pytest.mark.parametrize("reader", ["square"])
def test_every_stage_runs_and_is_measured(reader, tmp_path, capsys):
    settings = RehearsalSettings(reader, "tiny", layers=2, steps=1, out=str(tmp_path))
    rows = rehearse(settings, TOOLS)
    assert [row["stage"] for row in rows] == ["check", "train", "evaluate", "export", "demo"]
    assert all(row["seconds"] > 0 and row["peak_gb"] > 0.1 for row in rows)
    out = capsys.readouterr().out
    assert "== train: python tools/train.py" in out and "peak gb" in out
    check = json.loads((tmp_path / "check.json").read_text())
    assert check["problems"] == [] and check["model"]["dtype"] == "bfloat16"
    for name in ("work/iter_1.pth", "head/model.safetensors", "rehearsal.json", "rehearsal.md"):
        assert (tmp_path / name).stat().st_size > 100
    assert list((tmp_path / "demo").glob("*.png"))


def test_a_stage_that_fails_is_told(in_this_process):
    with pytest.raises(RuntimeError, match=r"train\.py ended with: error: .*none\.py"):
        run_tool_file(str(TOOLS / "train.py"), ["none.py"], "cpu")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"refiner": "sam"}, "--refiner sam: choose of tiny, sam-vit-l, sam2.1-hiera-l"),
        ({"steps": 0}, "--steps 0: give at least 1"),
        ({"layers": 0}, "--layers 0: give at least 1"),
        ({"device": "abacus"}, "--device abacus: give cpu"),
    ],
)
def test_impossible_settings_are_told(fields, message):
    with pytest.raises(ValueError, match=message):
        RehearsalSettings(**fields)


def test_an_unknown_reader_is_told(tmp_path):
    settings = RehearsalSettings("Huge", out=str(tmp_path))
    with pytest.raises(ValueError, match=r"no published size 'Huge': choose of .*Qwen2-VL-2B"):
        rehearse(settings, TOOLS)
