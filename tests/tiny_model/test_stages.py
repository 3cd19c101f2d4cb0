"""Every stage of docs/tiny_model.md runs from its command, on a handful of scenes."""

import subprocess
import sys

from flmm.vlms import FrozenQwen


def run_stage(*arguments):
    command = [sys.executable, "tools/make_tiny_model.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_stages_follow_one_another(tmp_path):
    scenes, short = tmp_path / "scenes", ("--steps", 2)
    run_stage("scenes", scenes, "--scenes", 250, "--seed", 5)
    run_stage("vision", tmp_path / "first", "--scenes", scenes, *short)
    run_stage(
        "vision", tmp_path / "vision", "--scenes", scenes, "--start", tmp_path / "first", *short
    )
    text = run_stage(
        "language", tmp_path / "reader", "--scenes", scenes, "--start", tmp_path / "vision", *short
    )
    assert "superlative" in text and "left" in text
    run_stage("embed", tmp_path / "tiny", "--start", tmp_path / "reader")
    assert FrozenQwen(tmp_path / "tiny", dtype="float32").num_maps == 30
    run_stage("refiner", tmp_path / "sam.safetensors", "--scenes", 20, *short)
    assert (tmp_path / "sam.safetensors").stat().st_size > 1e6
