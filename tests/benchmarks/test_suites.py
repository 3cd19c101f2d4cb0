"""The benchmarks by name, at their smallest, and what the tool refuses."""

import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from flmm.benchmarks import caching, evaluating, suites
from flmm.benchmarks.caching import measure_caching
from flmm.benchmarks.evaluating import measure_evaluation
from flmm.benchmarks.many_phrases import measure_many_phrases
from flmm.benchmarks.precision import (
    compute_difference,
    measure_layout_precision,
    measure_tiny_precision,
)
from flmm.benchmarks.reading_ways import WAYS
from flmm.benchmarks.refining import measure_asking, measure_refining
from flmm.benchmarks.suites import (
    BENCHMARKS,
    TINY_CONFIG,
    BenchmarkSettings,
    list_cases,
    list_cells,
    run_benchmarks,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("tool_benchmark", ROOT / "tools/benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_times(rows, names):
    assert [row["case"] for row in rows] == names
    for row in rows:
        assert 0 < row["low_s"] <= row["median_s"] <= row["high_s"]
        assert row["ratio"] == pytest.approx(row["median_s"] / rows[0]["median_s"])


def test_refining(cpu):
    rows = measure_refining("tiny", cpu, masks=3, repeats=2)
    check_times(rows, ["1 mask", "3 masks"])
    assert {row["what"] for row in rows} == {"refine, SAM tiny"}


def test_asking_again_costs_less(layout, cpu):
    rows = measure_asking(layout, None, "tiny", cpu, image_tokens=192, expressions=1, repeats=2)
    check_times(rows, ["first question", "second question"])
    assert rows[1]["ratio"] < 0.9


def test_a_cache_that_changes_the_losses_is_refused(layout, monkeypatch):
    """Float16 in the place of maps is near enough; another picture's are not."""
    find = caching.FeatureCache.find_phrases

    def find_others(cache, image, continuations):
        lookup = find(cache, image, continuations)
        for seen in lookup.found:
            if seen is not None:
                seen.maps = seen.maps.flip(-1)
        return lookup

    monkeypatch.setattr(caching.FeatureCache, "find_phrases", find_others)
    with pytest.raises(ValueError, match=r"loss_\w+ is .* with the cache and .* without: a cache"):
        measure_caching(layout, None, "tiny", image_tokens=48, phrases=1, images=1, repeats=1)


def test_evaluating(cpu, monkeypatch):
    """Four expressions in place of seven, so that a few scenes are enough."""
    monkeypatch.setattr(evaluating, "EXPRESSIONS", 4)
    rows = measure_evaluation(TINY_CONFIG, cpu, images=1, repeats=1)
    check_times(rows, ["one by one", "read once"])
    assert rows[0]["what"] == "evaluate 1 images x 4 expressions, tiny model"


def test_half_precision_of_the_tiny_model(cpu):
    rows = measure_tiny_precision(TINY_CONFIG, cpu, images=1)
    assert [row["dtype"] for row in rows] == ["float32", "bfloat16", "float16"]
    exact, brain, half = rows
    assert exact["map_difference"] == exact["changed"] == 0
    assert 0 < half["map_difference"] < brain["map_difference"] < 0.2
    for row in rows:
        assert row["expressions"] == exact["expressions"] > 0
        assert abs(row["cIoU"] - exact["cIoU"]) < 5 and 0 <= row["changed"] <= 100


def test_half_precision_of_a_layout(layout, cpu):
    exact, brain, half = measure_layout_precision(layout, None, cpu)
    assert exact["map_difference"] == exact["worst_head"] == 0
    assert 0 < half["map_difference"] < brain["map_difference"] < 0.2
    assert brain["worst_head"] >= brain["map_difference"]


def test_difference_is_relative_and_of_each_channel():
    exact = torch.tensor([1.0, 100.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    maps = exact.clone()
    maps[:, 0] *= 1.1
    assert compute_difference(maps, exact) == pytest.approx(0.05)


class TestCases:
    def test_every_way_at_the_first_size_then_the_other_sizes(self):
        settings = BenchmarkSettings(tokens=(1000, 300), expressions=(7, 1))
        cases = [(case.way, case.image_tokens, case.expressions) for case in list_cases(settings)]
        assert cases == [
            *((way, 1000, 7) for way in WAYS),
            *((way, 1000, 1) for way in ("flmm", "ours")),  # joined is the same as isolated
            *((way, 300, 7) for way in WAYS),
        ]

    def test_every_pair_where_that_is_wanted(self):
        settings = BenchmarkSettings(
            tokens=(1000, 4000), expressions=(1, 7, 30), ways=("floor", "ours"), every_pair=True
        )
        cases = [(case.way, case.image_tokens, case.expressions) for case in list_cases(settings)]
        assert sorted(cases) == sorted(
            [("ours", tokens, count) for tokens in (1000, 4000) for count in (1, 7, 30)]
            + [("floor", tokens, 1) for tokens in (1000, 4000)]
        )

    def test_one_floor_for_each_size(self):
        cases = list_cases(BenchmarkSettings())
        counts = Counter(case.image_tokens for case in cases if case.way == "floor")
        assert counts == dict.fromkeys((300, 1000, 2000, 4000, 8000), 1)
        assert len(set(cases)) == len(cases)

    def test_settings_reach_every_case(self):
        settings = BenchmarkSettings(
            "Qwen2.5-VL-3B", 2, (50,), (2,), ("ours",), 1, 3, dtype="float16"
        )
        (case,) = list_cases(settings)
        assert (case.layout, case.layers, case.repeats, case.max_passes) == (
            "Qwen2.5-VL-3B",
            2,
            1,
            3,
        )
        assert (case.device, case.dtype) == ("cpu", "float16")


def test_what_a_run_writes_and_prints(tmp_path, capsys, layout, monkeypatch):
    """The reading in this process; ``test_reading`` has one that starts others."""
    from flmm.benchmarks import reading_ways
    from flmm.benchmarks.reading import build_row, compare_rows

    def measure(cases):
        found = [(case, *reading_ways.measure_case(case)) for case in cases]
        rows = [build_row(case, result) for case, result, _ in found]
        compare_rows(
            rows, {at: maps.numpy() for at, (_, _, maps) in enumerate(found) if maps is not None}
        )
        return [*rows, build_row(found[0][0], None, "no room")]

    monkeypatch.setattr(suites, "measure_reading", measure)
    ways = ("floor", "ours")
    settings = BenchmarkSettings(
        layout, None, (48,), (2,), ways, repeats=1, sam="tiny", out=str(tmp_path / "new")
    )
    run_benchmarks(["read", "refine"], settings)
    out = capsys.readouterr().out
    assert "images/s" not in out and "layers s" in out and f"written: {tmp_path}/new" in out
    assert "not run: floor, 48 image tokens, 2 expressions: no room" in out
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["read.json", "read.md", "read.png", "refine.json", "refine.md"]
    content = json.loads((tmp_path / "new/read.json").read_text())
    assert set(content) == {"machine", "versions", "rows"} and "threads" in content["machine"]
    assert [row["way"] for row in content["rows"]] == [*ways, "floor"]
    for key in ("vision_s", "layers_s", "head_s", "rest_s", "images_per_s", "gpu_percent"):
        assert key in content["rows"][1]
    table = (tmp_path / "new/read.md").read_text()
    assert "| images/s | expressions/s | GPU % |" in table and "no room" in table
    lines = (tmp_path / "new/refine.md").read_text().splitlines()
    assert lines[2] == "| what | case | median s | low s | high s | ratio |"
    assert len(lines) == 6 and re.match(r"\| refine, SAM tiny \| 30 masks \|", lines[5])


def test_a_value_that_a_row_has_not():
    assert list_cells([{"what": "a", "low_s": 0.12345}, {"what": "b", "cIoU": None}]) == [
        *(["what", "low s", "cIoU"], ["a", "0.123", "-"], ["b", "-", "-"])
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, "--dtype int8: choose of float32, float16, bfloat16"),
        ({"sam": "vit_x"}, "--sam vit_x: choose of tiny, vit_b, vit_l, vit_h"),
        ({"tokens": [1000, 0]}, "--tokens 1000 0: give numbers above 0"),
        ({"expressions": [-1]}, "--expressions -1: give numbers above 0"),
        ({"layers": 0}, "--layers 0: give numbers above 0"),
        ({"repeats": 0}, "--repeats 0: give numbers above 0"),
        ({"max_passes": 0}, "--max-passes 0: give numbers above 0"),
        ({"device": "abacus"}, "--device abacus: give cpu, cuda or cuda:1"),
    ],
)
def test_impossible_settings_are_refused_before_anything_runs(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BenchmarkSettings(**changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(
        ValueError, match="--device cuda: torch sees no GPU here; give --device cpu"
    ):
        BenchmarkSettings(device="cuda")


class TestTool:
    def parse(self, tool, monkeypatch, line):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *line.split()])
        return tool.parse_args()

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("read bogus wrong", "no benchmark bogus, wrong: choose of read, refine, ask"),
            ("read --model Qwen9", "--model Qwen9: choose of Qwen2-VL-2B"),
            ("read --ways ours theirs", "--ways 'theirs': choose of floor, flmm"),
        ],
    )
    def test_a_wrong_choice_is_told(self, tool, monkeypatch, tmp_path, line, message):
        with pytest.raises(ValueError, match=message):
            tool.main(self.parse(tool, monkeypatch, f"{line} --out {tmp_path}"))

    @pytest.mark.parametrize(
        ("line", "message"),
        [("read --tokens many", "argument --tokens: invalid int value: 'many'")],
    )
    def test_a_wrong_word_ends_with_one_line(self, tool, monkeypatch, capsys, line, message):
        with pytest.raises(SystemExit) as caught:
            self.parse(tool, monkeypatch, line)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]

    def test_options_reach_the_benchmarks(self, tool, monkeypatch):
        seen = []
        monkeypatch.setattr(suites, "run_benchmarks", lambda *arguments: seen.append(arguments))
        line = (
            "ask read --model Qwen2.5-VL-7B --layers 2 --tokens 10 20 --expressions 1 --ways ours"
        )
        line += " --repeats 4 --max-passes 2 --sam tiny --device cpu --dtype float16 --out x"
        line += " --every-pair"
        tool.main(self.parse(tool, monkeypatch, line))
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


def test_many_phrases_are_counted(cpu):
    rows = measure_many_phrases(TINY_CONFIG, cpu, [1, 3], (150, 200))
    assert [row["phrases"] for row in rows] == [1, 3]
    assert all(row["time_s"] > 0 and row["masks MiB"] > 0 for row in rows)
