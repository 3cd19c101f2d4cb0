"""Every stage of docs/tiny_model.md runs from its command, on a handful of scenes."""

import pytest

from flmm.readers import FrozenQwen
from tests.forks import run_fork

pytestmark = [pytest.mark.process, pytest.mark.heavy]


def run_stage(*arguments):
    done = run_fork("tools/make_tiny_model.py", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_stages_follow_one_another(tmp_path):
    short = ("--steps", 1, "--workers", 1, "--scenes", 170)
    run_stage("vision", tmp_path / "vision", *short)
    text = run_stage("language", tmp_path / "reader", "--start", tmp_path / "vision", *short)
    assert "superlative" in text and "left" in text
    run_stage("embed", tmp_path / "tiny", "--start", tmp_path / "reader")
    assert FrozenQwen(tmp_path / "tiny", dtype="float32").num_maps == 30
    run_stage("refiner", tmp_path / "sam.safetensors", *short[:4], "--scenes", 20)
    assert (tmp_path / "sam.safetensors").stat().st_size > 1e6
