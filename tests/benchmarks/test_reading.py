"""All ways of reading, run for real: the same maps, or no comparison; where the time goes."""

import copy
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from flmm.benchmarks import reading
from flmm.benchmarks.harness import (
    WAYS,
    BenchmarkSettings,
    build_reader,
    list_cells,
    make_image,
)
from flmm.benchmarks.reading import compare_rows, draw_reading, find_obstacle, list_cases, read
from flmm.benchmarks.reading_ways import (
    PARTS,
    ReadingCase,
    build_run,
    join_expressions,
    measure_case,
    measure_parts,
    measure_utilization,
)

PAUSE = 0.05


def make_case(way, image_tokens=48, expressions=3, **fields):
    return ReadingCase(way, "small", None, image_tokens, expressions, repeats=1, **fields)


def run(cases):
    """Rows and maps, all in this process."""
    rows, maps = zip(*map(measure_case, cases))
    return list(rows), list(maps)


@pytest.fixture(scope="module")
def _all_ways(size):
    return run([make_case(way) for way in WAYS])


@pytest.fixture
def all_ways(_all_ways):
    """Rows and maps of every way on the same inputs, to be changed."""
    return copy.deepcopy(_all_ways)


def test_every_way_gives_the_same_maps(all_ways):
    rows, maps = all_ways
    compare_rows(rows, maps)
    by_way = {row["way"]: row for row in rows}
    assert list(by_way) == list(WAYS) and maps[0] is None
    assert maps[1].shape == maps[3].shape == (3, 4, 6, 8)
    for way in ("flmm", "flmm joined"):
        assert by_way[way]["difference"] < 1e-5
        assert by_way[way]["time_over_ours"] == pytest.approx(
            by_way[way]["median_s"] / by_way[way.replace("flmm", "ours")]["median_s"]
        )
    assert by_way["floor"]["time_over_floor"] == by_way["ours"]["time_over_ours"] == 1
    # Isolated and joined expressions are not the same question; rows of a softmax over more than
    # the image.
    assert np.abs(maps[3] - maps[4]).max() > 1e-3
    sums = maps[3].reshape(3, 4, -1).sum(-1)
    assert ((sums > 0.05) & (sums < 1)).all()
    for row in rows:
        assert row["image_tokens"] == 48 and row["low_s"] <= row["median_s"] <= row["high_s"]
        assert row["images_per_s"] == 1 / row["median_s"] and row["gpu_percent"] is None
    assert by_way["floor"]["expressions_per_s"] is None
    assert by_way["ours"]["expressions_per_s"] == pytest.approx(3 * by_way["ours"]["images_per_s"])
    heads = {way: row["head_s"] > 0 for way, row in by_way.items()}
    assert heads == {way: way.startswith("flmm") for way in WAYS}


def test_a_reader_of_another_family_gives_the_same_maps(size):
    """Its processor makes as many tokens of every picture."""
    rows, maps = run(
        [replace(make_case(way), model="square") for way in ("flmm joined", "ours joined")]
    )
    compare_rows(rows, maps)
    assert rows[0]["difference"] < 1e-5 and rows[0]["image_tokens"] == 16


def test_flmms_way_keeps_squares_of_the_sequence_and_ours_does_not(size):
    rows, _ = run([make_case(way, image_tokens=192) for way in ("flmm", "ours")])
    flmm, ours = (row["largest_shape"] for row in rows)
    assert flmm[-1] == flmm[-2] > 192
    assert ours[-1] != ours[-2] and rows[0]["largest_mb"] > 2 * rows[1]["largest_mb"]


def test_wrong_maps_are_refused(all_ways):
    rows, maps = all_ways
    maps[1][2] = np.roll(maps[1][2], 1, axis=-1)
    with pytest.raises(ValueError, match=r"flmm and ours differ by \d\.\de-\d\d \(relative\)"):
        compare_rows(rows, maps)
    maps[1][2] = float("nan")
    with pytest.raises(ValueError, match="flmm and ours differ by nan"):
        compare_rows(rows, maps)
    maps[1] = None
    with pytest.raises(ValueError, match="flmm or ours gave no maps"):
        compare_rows(rows, maps)


def test_passes_that_are_left_out_are_scaled_up_and_marked(size):
    cases = [make_case(way, expressions=5, max_passes=2) for way in ("flmm", "ours")]
    rows, maps = run(cases)
    assert len(maps[0]) == 2 and len(maps[1]) == 5
    compare_rows(rows, maps)
    assert [row["extrapolated"] for row in rows] == [True, False]
    assert rows[0]["difference"] < 1e-5
    header, first, _ = list_cells(rows)
    assert first[header.index("extrapolated")] == "yes"


def test_half_precision_has_its_own_tolerance(size):
    rows, maps = run([make_case(way, dtype="bfloat16") for way in ("flmm", "ours")])
    compare_rows(rows, maps)
    assert 1e-4 < rows[0]["difference"] < 0.2


def test_inputs_that_differ_are_not_compared(all_ways):
    rows, maps = all_ways
    rows[0]["image_tokens"] = rows[3]["image_tokens"] = 60
    compare_rows(rows, maps)
    assert not {"time_over_ours", "time_over_floor", "difference"} & set(rows[1])
    assert rows[3]["time_over_floor"] > 0


def test_joined_expressions_keep_their_words():
    text = join_expressions(["red circle", "small star", "left"])
    assert text.phrases == ["red circle", "small star", "left"]
    assert text.text == "red circle small star left"


def test_what_cannot_fit_is_not_begun(size, monkeypatch):
    monkeypatch.setattr(reading, "read_available_bytes", lambda device: 2**30)
    why = find_obstacle(make_case("flmm", image_tokens=20_000))
    # Layers and three: 5 matrices of 2 heads x 20,000^2 x 4 bytes, and two of the vision tower's
    # 16 heads x 80,000^2.
    needed = (5 * 2 * 20_000**2 + 2 * 16 * 80_000**2) * 4 / 2**30
    assert why == f"needs about {needed:.0f} GiB, 1 GiB are free"
    assert find_obstacle(make_case("flmm joined", image_tokens=20_000)) == why
    assert find_obstacle(make_case("ours", image_tokens=20_000)) is None
    assert find_obstacle(make_case("flmm")) is None
    monkeypatch.setattr(reading, "read_available_bytes", lambda device: None)
    assert find_obstacle(make_case("flmm", image_tokens=20_000)) is None


def test_cases_that_do_not_run_say_why_and_the_others_are_drawn(
    size, all_ways, monkeypatch, tmp_path
):
    def run_apart(call, case):
        if case.way == "flmm":
            raise MemoryError("ran out of memory")
        return all_ways[0][WAYS.index(case.way)], all_ways[1][WAYS.index(case.way)]

    monkeypatch.setattr(reading, "run_apart", run_apart)
    settings = BenchmarkSettings(size, None, (48,), (3,), dtype="float32", out=str(tmp_path / "a"))
    rows = read(settings)
    assert [row.get("why_not") for row in rows] == [None, "ran out of memory", None, None, None]
    assert rows[3]["time_over_ours"] == 1 and "median_s" not in rows[1]
    assert (tmp_path / "a/read.png").read_bytes().startswith(b"\x89PNG")
    curves = [{line.get_label(): line for line in axis.lines} for axis in draw_reading(rows).axes]
    assert all(set(own) == set(WAYS) - {"flmm"} for own in curves)
    larger = [{**row, "image_tokens": 108} for row in rows]
    tokens, memory, expressions = draw_reading([*larger, *rows]).axes
    assert tokens.lines[1].get_xdata().tolist() == [48, 108]
    assert memory.lines[1].get_ydata().tolist() == [rows[2]["extra_mb"]] * 2 or rows[2]
    assert expressions.get_title() == "108 image tokens"


class TestCases:
    def list(self, **fields):
        cases = list_cases(BenchmarkSettings("small", dtype="float32", **fields))
        assert len(set(cases)) == len(cases)
        return [(case.way, case.image_tokens, case.expressions) for case in cases]

    def test_every_way_at_the_first_size_then_the_other_sizes(self, size):
        assert self.list(tokens=(1000, 300), expressions=(7, 1)) == [
            *((way, 1000, 7) for way in WAYS),
            *((way, 1000, 1) for way in ("flmm", "ours")),  # joined is the same as isolated
            *((way, 300, 7) for way in WAYS),
        ]

    def test_every_pair_where_that_is_wanted(self, size):
        ways = ("floor", "ours")
        cases = self.list(tokens=(1000, 4000), expressions=(1, 7), ways=ways, every_pair=True)
        pairs = [("ours", tokens, count) for tokens in (1000, 4000) for count in (1, 7)]
        assert sorted(cases) == sorted([*pairs, ("floor", 1000, 1), ("floor", 4000, 1)])


def build(way):
    implementation = "eager" if way == "flmm" else "sdpa"
    reader = build_reader("small", attn_implementation=implementation)
    return reader, build_run(make_case(way), reader, make_image(reader, 48))


def slow_down(module):
    """A pause inside the module's forward."""
    forward = module.forward

    def pause(*args, **kwargs):
        time.sleep(PAUSE)
        return forward(*args, **kwargs)

    module.forward = pause
    return lambda: setattr(module, "forward", forward)


def test_time_that_is_spent_somewhere_is_found_there(size):
    """F-LMM's way asks every module once for each of three expressions."""
    reader, run = build("flmm")
    run()
    model = reader.model.model
    modules = (
        model.visual.blocks[0],
        model.language_model.layers[1].mlp,
        reader.model.get_output_embeddings(),
        model.language_model.norm,
    )
    for part, module in zip(PARTS, modules):
        undo = slow_down(module)
        seconds = measure_parts(reader, run)
        undo()
        assert tuple(seconds) == PARTS
        assert seconds[part] >= 3 * PAUSE
        assert all(value >= 0 for value in seconds.values())


def count_hooks(reader):
    """Transformers has some of its own."""
    modules = list(reader.model.modules())
    return sum(len(item._forward_hooks) + len(item._forward_pre_hooks) for item in modules)


def test_ours_has_no_head_and_the_hooks_go(size, cpu):
    reader, run = build("ours")
    run()
    before = count_hooks(reader)
    seconds = measure_parts(reader, run)
    assert seconds["head"] == 0 < min(seconds["vision"], seconds["layers"], seconds["rest"])

    def fail():
        run()
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        measure_parts(reader, fail)
    assert count_hooks(reader) == before
    assert measure_utilization(run, cpu) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_is_busy_while_it_works():
    values = torch.ones(4096, 4096, device="cuda")
    percent = measure_utilization(lambda: values @ values, values.device)
    assert percent is None or percent > 10
