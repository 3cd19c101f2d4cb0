"""All ways of reading, run for real: the same maps, or no comparison."""

import copy
import json
import re

import numpy as np
import pytest
import torch

from flmm.benchmarks import reading
from flmm.benchmarks.plots import PANELS, draw_reading, plot_reading
from flmm.benchmarks.reading import build_row, compare_rows, find_obstacle, measure_reading
from flmm.benchmarks.reading_tables import list_columns, list_remarks
from flmm.benchmarks.reading_ways import WAYS, ReadingCase, join_expressions, main, measure_case
from flmm.tables import format_text


def run(cases):
    """Rows and maps, all in this process."""
    rows, maps = [], {}
    for index, case in enumerate(cases):
        result, found = measure_case(case)
        rows.append(build_row(case, result))
        if found is not None:
            maps[index] = found.numpy()
    return rows, maps


@pytest.fixture(scope="module")
def _all_ways(make_case):
    return run([make_case(way) for way in WAYS])


@pytest.fixture
def all_ways(_all_ways):
    """Rows and maps of every way on the same inputs, to be changed."""
    return copy.deepcopy(_all_ways)


def test_every_way_gives_the_same_maps(all_ways):
    rows, maps = all_ways
    compare_rows(rows, maps)
    by_way = {row["way"]: row for row in rows}
    assert list(by_way) == list(WAYS) and set(maps) == {1, 2, 3, 4}
    assert maps[1].shape == maps[3].shape == (3, 4, 6, 8)
    for way in ("flmm", "flmm joined"):
        assert by_way[way]["difference"] < 1e-5
        assert by_way[way]["time_over_ours"] == pytest.approx(
            by_way[way]["median_s"] / by_way[way.replace("flmm", "ours")]["median_s"]
        )
    assert by_way["floor"]["time_over_floor"] == by_way["ours"]["time_over_ours"] == 1
    # Isolated and joined expressions are not the same question.
    assert np.abs(maps[3] - maps[4]).max() > 1e-3
    for row in rows:
        assert row["image_tokens"] == 48 and row["low_s"] <= row["median_s"] <= row["high_s"]
        assert row["images_per_s"] == 1 / row["median_s"]
        assert row["gpu_percent"] is None
    assert by_way["floor"]["expressions_per_s"] is None
    assert by_way["ours"]["expressions_per_s"] == pytest.approx(3 * by_way["ours"]["images_per_s"])
    heads = {way: row["head_s"] > 0 for way, row in by_way.items()}
    assert heads == {way: way.startswith("flmm") for way in WAYS}


def test_flmms_way_keeps_squares_of_the_sequence_and_ours_does_not(make_case):
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
    del maps[1]
    with pytest.raises(ValueError, match="flmm or ours gave no maps"):
        compare_rows(rows, maps)


def test_passes_that_are_left_out_are_scaled_up_and_marked(make_case):
    rows, maps = run([make_case(way, expressions=5, max_passes=2) for way in ("flmm", "ours")])
    assert len(maps[0]) == 2 and len(maps[1]) == 5
    compare_rows(rows, maps)
    assert [row["extrapolated"] for row in rows] == [True, False]
    assert rows[0]["difference"] < 1e-5
    median = list_columns(rows)[1][3]
    assert median.startswith("~") and float(median[1:]) == pytest.approx(
        rows[0]["median_s"], abs=0.01
    )


def test_half_precision_has_its_own_tolerance(make_case):
    rows, maps = run([make_case(way, dtype="bfloat16") for way in ("flmm", "ours")])
    compare_rows(rows, maps)
    assert 1e-4 < rows[0]["difference"] < 0.2


def test_inputs_that_differ_are_not_compared(make_case):
    rows, maps = run(
        [make_case("flmm"), make_case("ours", image_tokens=60), make_case("floor", 60)]
    )
    compare_rows(rows, maps)
    assert not {"time_over_ours", "time_over_floor", "difference"} & set(rows[0])
    assert rows[1]["time_over_floor"] > 0


def test_joined_expressions_keep_their_words():
    text = join_expressions(["red circle", "small star", "left"])
    assert text.phrases == ["red circle", "small star", "left"]
    assert text.text == "red circle small star left"


def test_what_cannot_fit_is_not_begun(make_case, monkeypatch):
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


def test_each_case_has_a_process_of_its_own(monkeypatch):
    """The smallest layout that other processes know; a case that fails is told with its reason."""
    monkeypatch.setattr(reading, "find_obstacle", lambda case: "no room" if case.threads else None)
    case = ReadingCase("ours", "width-1024", 1, 12, 1, repeats=1)
    rows = measure_reading([case, ReadingCase("flmm", "width-1024", 1, 12, 1, threads=1)])
    assert rows[0]["why_not"] is None and rows[0]["time_over_ours"] == 1
    assert rows[1]["why_not"] == "no room" and "median_s" not in rows[1]
    assert list_remarks(rows) == ["not run: flmm, 12 image tokens, 1 expressions: no room"]


@pytest.mark.parametrize(
    ("line", "code", "result"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 1, "ran out of"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", 1, "ran out of"),
        ("", -9, "ran out of memory"),
        ("KeyError: 'x'", 1, None),
    ],
)
def test_how_a_case_ended(make_case, monkeypatch, line, code, result):
    program = f"import os, signal, sys; sys.stderr.write({line!r})\n"
    program += "os.kill(os.getpid(), signal.SIGKILL)" if code == -9 else f"sys.exit({code})"
    execute = reading.subprocess.run

    def run_program(command, **options):
        return execute([command[0], "-c", program], **options)

    monkeypatch.setattr(reading.subprocess, "run", run_program)
    if result:
        (row,) = measure_reading([make_case("ours")])
        assert row["why_not"].startswith(result)
    else:
        with pytest.raises(RuntimeError, match=r"ReadingCase\(way='ours'.* failed: KeyError: 'x'"):
            measure_reading([make_case("ours")])


def test_the_files_of_a_process(make_case, tmp_path):
    case = make_case("ours")
    (tmp_path / "case.json").write_text(json.dumps(case.__dict__))
    main(str(tmp_path / "case.json"), str(tmp_path / "result.json"))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["case"] == case.__dict__ and len(result["seconds"]) == 1
    assert np.load(tmp_path / "result.npy").shape == (3, 4, 6, 8)


class TestTable:
    def test_the_narrow_one_fits_a_screen(self, all_ways):
        rows, maps = all_ways
        compare_rows(rows, maps)
        header, *cells = list_columns(rows)
        assert header == [
            *("image tokens", "expressions", "way", "median s", "x ours", "x floor"),
            *("vision s", "layers s", "head s", "extra MB", "MB x ours"),
        ]
        assert all(len(row) == len(header) for row in cells)
        assert max(map(len, format_text([header, *cells]).splitlines())) <= 115
        assert re.fullmatch(r"\d\.\d\d", cells[0][3])

    def test_the_whole_one_has_everything(self, all_ways):
        rows, _ = all_ways
        header, *cells = list_columns(rows, has_details=True)
        for title in ("spread s", "rest s", "images/s", "expressions/s", "GPU %", "difference"):
            assert title in header
        shape = cells[1][header.index("largest tensor")]
        assert re.fullmatch(r"(\d+x)*\d+ \(\d+ MB\)", shape)
        assert cells[0][header.index("expressions/s")] == cells[0][header.index("GPU %")] == "-"

    def test_a_row_that_was_not_run(self, make_case):
        rows = [build_row(make_case("flmm"), None, "needs about 9 GiB, 2 GiB are free")]
        assert list_columns(rows)[1] == ["48", "3", "flmm", "not run", *["-"] * 7]
        assert list_remarks(rows) == [
            "not run: flmm, 48 image tokens, 3 expressions: needs about 9 GiB, 2 GiB are free"
        ]


def list_curves(rows):
    return [{line.get_label(): line for line in axis.lines} for axis in draw_reading(rows).axes]


class TestPlot:
    @pytest.fixture
    def rows(self, all_ways, make_case):
        """Real rows, as they were and as if the image or the question had been larger."""
        rows, _ = all_ways
        larger = [{**row, "image_tokens": 108} for row in rows]
        longer = [{**row, "expressions": 7} for row in rows if row["way"] in ("flmm", "ours")]
        missing = build_row(make_case("flmm", image_tokens=300), None, "no room")
        return [*larger, *rows, *longer, missing]

    def test_a_curve_for_each_way(self, rows):
        panels = draw_reading(rows).axes
        assert len(panels) == len(PANELS)
        assert [panel.get_title() for panel in panels] == [
            *("7 expressions", "7 expressions", "108 image tokens")
        ]
        rows = [row for row in rows if row["expressions"] == 3]
        tokens, memory, expressions = list_curves(rows)
        assert set(tokens) == set(memory) == set(expressions) == set(WAYS)
        assert tokens["flmm"].get_xdata().tolist() == [48, 108]  # not the one that was not run
        ours = next(row for row in rows if row["way"] == "ours")
        assert memory["ours"].get_ydata().tolist() == [ours["extra_mb"]] * 2
        assert panels[0].get_xlabel() == "image tokens" and panels[1].get_yscale() == "log"

    def test_the_floor_is_a_line_where_nothing_is_asked(self, rows):
        smaller = [row for row in rows if row["image_tokens"] == 48]
        curves = list_curves(smaller)[2]
        assert curves["ours"].get_xdata().tolist() == [3, 7]
        floor = next(row["median_s"] for row in smaller if row["way"] == "floor")
        assert list(curves["floor"].get_ydata()) == [floor, floor]

    def test_the_file(self, rows, tmp_path):
        plot_reading(rows, tmp_path / "new" / "read.png")
        assert (tmp_path / "new/read.png").read_bytes().startswith(b"\x89PNG")

    def test_nothing_to_draw(self, rows, tmp_path):
        plot_reading(rows[-1:], tmp_path / "read.png")
        assert not list(tmp_path.iterdir())

    def test_the_floor_alone(self, rows):
        figure = draw_reading([row for row in rows if row["way"] == "floor"])
        assert [len(panel.lines) for panel in figure.axes] == [1, 1, 1]


def test_the_maps_are_those_of_the_reader(make_case):
    """Not only of each other: rows of a softmax over more than the image."""
    _, maps = run([make_case("ours")])
    sums = torch.from_numpy(maps[0]).flatten(2).sum(-1)
    assert ((sums > 0.05) & (sums < 1)).all()
