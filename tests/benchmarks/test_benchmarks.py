"""The benchmarks by name, at their smallest, and what the tool refuses."""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from flmm import benchmarks
from flmm.benchmarks import BENCHMARKS, BenchmarkSettings, run_benchmarks, stopping
from flmm.benchmarks.harness import list_cells, run_apart
from flmm.benchmarks.stopping import stop
from flmm.benchmarks.working import (
    DTYPES,
    ask,
    cache,
    compute_difference,
    evaluate,
    many,
    precision,
    refine,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(size, tmp_path):
    fields = {"tokens": (192,), "expressions": (1,), "repeats": 2, "sam": "tiny"}
    return BenchmarkSettings(size, out=str(tmp_path / "new"), **fields)


def check_times(rows, names):
    assert [row["case"] for row in rows] == names
    for row in rows:
        assert 0 < row["low_s"] <= row["median_s"] <= row["high_s"]
        assert row["ratio"] == pytest.approx(row["median_s"] / rows[0]["median_s"])


def test_refining_is_printed_and_written(settings, capsys):
    run_benchmarks(["refine"], settings)
    out = capsys.readouterr().out
    assert "30 masks" in out and "low s" not in out and f"written: {settings.out}" in out
    content = json.loads(Path(settings.out, "refine.json").read_text())
    assert set(content) == {"machine", "versions", "rows"} and "threads" in content["machine"]
    check_times(content["rows"], ["1 mask", "30 masks"])
    lines = Path(settings.out, "refine.md").read_text().splitlines()
    assert lines[2] == "| what | case | median s | low s | high s | ratio |"
    assert len(lines) == 6 and re.match(r"\| refine, SAM tiny \| 30 masks \|", lines[5])
    assert len(refine(settings, masks=2)) == 2


def test_asking_again_costs_less(settings):
    rows = ask(settings)
    check_times(rows, ["first question", "second question"])
    assert rows[1]["ratio"] < 0.9


def test_the_three_epochs(settings):
    rows = cache(settings, phrases=1, images=1)
    check_times(rows, ["epoch without cache", "epoch that fills it", "epoch with cache"])


def test_many_phrases_are_counted(settings):
    rows = many(settings, size=(150, 200))
    assert rows[0]["phrases"] == 1 and rows[0]["time_s"] > 0 and rows[0]["masks MiB"] > 0


def test_evaluating_in_two_ways(settings):
    rows = evaluate(settings, images=1, expressions=4)
    check_times(rows, ["one by one", "read once"])
    assert rows[0]["what"] == "evaluate 1 images x 4 expressions, tiny model"


def test_half_precision(settings):
    rows = precision(settings, images=1)
    assert [row["dtype"] for row in rows] == list(DTYPES) * 2
    for exact, brain, half in (rows[:3], rows[3:]):
        assert exact["map_difference"] == exact["worst_head"] == 0
        assert 0 < half["map_difference"] < brain["map_difference"] < 0.2
        assert brain["worst_head"] >= brain["map_difference"]
    assert rows[0]["changed"] == 0 and rows[0]["expressions"] > 0
    for row in rows[:3]:
        assert abs(row["cIoU"] - rows[0]["cIoU"]) < 5 and 0 <= row["changed"] <= 100


def test_difference_is_relative_and_of_each_channel():
    exact = torch.tensor([1.0, 100.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    maps = exact.clone()
    maps[:, 0] *= 1.1
    found = compute_difference(maps, exact)
    assert found == pytest.approx({"map_difference": 0.05, "worst_head": 0.1})


def test_cells_of_any_rows():
    rows = [{"what": "a", "low_s": 0.12345}, {"what": "b", "cIoU": None, "shape": [2, 3]}]
    assert list_cells(rows) == [
        ["what", "low s", "cIoU", "shape"],
        ["a", "0.123", "-", "-"],
        ["b", "-", "-", "2x3"],
    ]


def test_a_process_of_its_own():
    assert run_apart(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        run_apart(int, "x")
    with pytest.raises(MemoryError, match="its process was killed"):
        run_apart(os._exit, 9)
    with pytest.raises(MemoryError, match="ran out of memory"):
        run_apart(torch.empty, 10**15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, "--dtype int8: choose of float32, float16, bfloat16"),
        ({"sam": "vit_x"}, "--sam vit_x: choose of tiny, vit_b, vit_l, vit_h"),
        ({"ways": ["ours", "theirs"]}, "--ways theirs: choose of floor, flmm"),
        ({"model": "Huge"}, "--model Huge: choose of "),
        ({"tokens": [1000, 0]}, "--tokens 1000 0: give numbers above 0"),
        ({"expressions": [-1]}, "--expressions -1: give numbers above 0"),
        ({"layers": 0}, "--layers 0: give numbers above 0"),
        ({"max_passes": 0}, "--max-passes 0: give numbers above 0"),
        ({"device": "abacus"}, "--device abacus: give cpu, cuda or cuda:1"),
    ],
)
def test_impossible_settings_are_refused_before_anything_runs(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BenchmarkSettings(**changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(ValueError, match="--device cuda: torch sees no GPU here; give --device"):
        BenchmarkSettings(device="cuda")


class TestTool:
    @pytest.fixture
    def tool(self):
        spec = importlib.util.spec_from_file_location("tool", ROOT / "tools/benchmark.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def parse(self, tool, monkeypatch, line):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *line.split()])
        return tool.parse_args()

    def test_options_reach_the_benchmarks(self, tool, monkeypatch):
        seen = []
        monkeypatch.setattr(benchmarks, "run_benchmarks", lambda *given: seen.append(given))
        line = "ask read --model Qwen2.5-VL-7B --layers 2 --tokens 10 20 --expressions 1 --ways"
        line += " ours --repeats 4 --max-passes 2 --sam tiny --device cpu --dtype float16 --out x"
        tool.main(self.parse(tool, monkeypatch, f"{line} --every-pair"))
        tool.main(self.parse(tool, monkeypatch, ""))
        expected = BenchmarkSettings(
            "Qwen2.5-VL-7B", 2, [10, 20], [1], ["ours"], 4, 2, "tiny", "cpu", "float16", "x", True
        )
        assert seen == [(["ask", "read"], expected), (list(BENCHMARKS), BenchmarkSettings())]

    def test_an_impossible_value_ends_with_one_line(self, tool, monkeypatch):
        args = self.parse(tool, monkeypatch, "refine --repeats 0")
        with pytest.raises(SystemExit) as caught:
            tool.run_tool(tool.main, args)
        assert str(caught.value).startswith("error: --repeats 0: give numbers above 0\n")
        args = self.parse(tool, monkeypatch, "read bogus wrong")
        with pytest.raises(ValueError, match="no benchmark bogus, wrong: choose of read, stop"):
            tool.main(args)


def test_pointing_that_stops_early_is_held_against_what_the_parts_allow(settings, monkeypatch):
    monkeypatch.setattr(stopping, "LARGE", settings.model)
    full, half, counted, _ = stop(settings)
    assert full["case"] == "bare full prefill" and half["case"] == "pointing, 1 of 2 layers"
    assert full["ratio"] == full["allowed"] == 1
    assert half["low_ratio"] <= half["ratio"] <= half["high_ratio"]
    for row in (half, counted):
        vision, language = row["vision_share"], row["language_share"]
        assert 0 < vision < 1 and vision + language == pytest.approx(1)
        assert row["allowed"] == pytest.approx(vision + language / 2)
    monkeypatch.setattr(stopping, "TOLERANCES", {"float32": -1.0})
    with pytest.raises(
        ValueError, match=r"maps of the first 1 layers differ by .* from those of a"
    ):
        stop(settings)
