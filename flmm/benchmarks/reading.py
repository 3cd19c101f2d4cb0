"""Cost of reading attention: F-LMM's way, ours and the bare prefill, as ratios of one run.

Out: rows with median seconds, spread, where the seconds go, peak extra memory, the largest tensor,
and ratios against ours and the floor; curves. Every case runs in a process of its own; speed is
only ever compared between equal maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from flmm.benchmarks.harness import TOLERANCES, BenchmarkSettings, Row, run_apart
from flmm.benchmarks.reading_ways import ReadingCase, measure_case
from flmm.meters import read_available_bytes
from flmm.readers.published_sizes import PUBLISHED_SIZES

PANELS = (
    ("image_tokens", "median_s", "seconds"),
    ("image_tokens", "extra_mb", "extra memory, MB"),
    ("expressions", "median_s", "seconds"),
)


def read(settings: BenchmarkSettings) -> list[Row]:
    """One row per case, and ``read.png``; one that did not run has ``why_not``, no figures."""
    rows: list[Row] = []
    maps: list[np.ndarray | None] = []
    for case in tqdm(list_cases(settings), desc="reading", unit="case"):
        row, found = {**asdict(case), "why_not": find_obstacle(case)}, None
        if row["why_not"] is None:
            try:
                row, found = run_apart(measure_case, case)
            except MemoryError as error:
                row["why_not"] = str(error)
        rows.append(row)
        maps.append(found)
    compare_rows(rows, maps)
    if any("median_s" in row for row in rows):
        folder = Path(settings.out)
        folder.mkdir(parents=True, exist_ok=True)
        draw_reading(rows).savefig(folder / "read.png", dpi=110)
    return rows


def list_cases(settings: BenchmarkSettings) -> list[ReadingCase]:
    """Every way at the first size and every number of expressions, then at the other sizes."""
    pairs = [(settings.tokens[0], count) for count in settings.expressions]
    is_full = settings.every_pair or settings.torch_device.type == "cuda"
    others = settings.expressions if is_full else settings.expressions[:1]
    pairs += [(tokens, count) for tokens in settings.tokens[1:] for count in others]
    names = ("model", "layers", "repeats", "max_passes", "device", "dtype")
    common = {name: getattr(settings, name) for name in names}
    return [
        ReadingCase(way, image_tokens=tokens, expressions=count, **common)
        for tokens, count in pairs
        for way in settings.ways
        # The floor has no expressions; one expression joined is one isolated.
        if not (way == "floor" and count != settings.expressions[0])
        and not ("joined" in way and count == 1)
    ]


def find_obstacle(case: ReadingCase) -> str | None:
    """Why a case cannot run here: F-LMM's way would need more memory than there is.

    It keeps L matrices ``[A, S, S]``, and with softmax and copy about three of a layer at once.
    """
    available = read_available_bytes(torch.device(case.device))
    if not case.way.startswith("flmm") or available is None:
        return None
    text = PUBLISHED_SIZES[case.model]["text_config"]
    value_bytes = 4 if case.dtype == "float32" else 2
    matrix = text["num_attention_heads"] * case.image_tokens**2 * value_bytes
    # The vision tower's own matrices, 4 patches per token and side, exist one layer at a time.
    patches = 16 * (4 * case.image_tokens) ** 2 * value_bytes * 2
    needed = matrix * ((case.layers or text["num_hidden_layers"]) + 3) + patches
    if needed < 0.8 * available:
        return None
    return f"needs about {needed / 2**30:.0f} GiB, {available / 2**30:.0f} GiB are free"


def compare_rows(rows: Sequence[Row], maps: Sequence[np.ndarray | None]) -> None:
    """Add ``time_over_ours``, ``memory_over_ours``, ``time_over_floor``, of the same inputs.

    Rows of F-LMM's way also get ``difference``, relative, of their maps from ours; ValueError where
    the two disagree.
    """
    same = ("model", "layers", "image_tokens", "device", "dtype")
    done = [(row, own) for row, own in zip(rows, maps) if "median_s" in row]
    for (row, own), (other, others) in product(done, done):
        if any(row[key] != other[key] for key in same):
            continue
        if other["way"] == "floor":
            row["time_over_floor"] = row["median_s"] / other["median_s"]
        ours = row["way"].replace("flmm", "ours").replace("floor", "ours")
        if (other["way"], other["expressions"]) == (ours, row["expressions"]):
            row["time_over_ours"] = row["median_s"] / other["median_s"]
            if row["extra_mb"] and other["extra_mb"]:
                row["memory_over_ours"] = row["extra_mb"] / other["extra_mb"]
            if row["way"].startswith("flmm"):
                _check_maps(row, own, others)


def _check_maps(row: Row, maps: np.ndarray | None, our_maps: np.ndarray | None) -> None:
    if maps is None or our_maps is None:
        raise ValueError(f"{row['way']} or ours gave no maps: their speeds cannot be compared")
    expected = our_maps[: len(maps)]
    row["difference"] = float(np.linalg.norm(maps - expected) / np.linalg.norm(expected))
    if not row["difference"] <= TOLERANCES[row["dtype"]]:
        raise ValueError(
            f"{row['way']} and ours differ by {row['difference']:.1e} (relative): their speeds "
            "cannot be compared"
        )


def draw_reading(rows: Sequence[Row]) -> Figure:
    """One panel of ``PANELS`` beside the other, a curve for each way in each."""
    done = [row for row in rows if "median_s" in row]
    # No pyplot: its state is the process's, and it would ask for a screen.
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    for axis, (x_key, y_key, label) in zip(figure.subplots(1, len(PANELS)), PANELS):
        held, near = ("image_tokens", 1000) if x_key == "expressions" else ("expressions", 7)
        # The floor has no expressions, so that it says nothing of what can be held.
        values = {row[held] for row in done if row["way"] != "floor"} or {row[held] for row in done}
        value = min(values, key=lambda own: abs(own - near))
        for way in dict.fromkeys(row["way"] for row in done):
            is_free = way == "floor" and held == "expressions"
            points = sorted(
                (row[x_key], row[y_key])
                for row in done
                if row["way"] == way and row[y_key] and (is_free or row[held] == value)
            )
            if len(points) == 1 and way == "floor":
                axis.axhline(points[0][1], linestyle=":", color="gray", label=way)
            elif points:
                axis.plot(*zip(*points), marker="o", label=way)
        axis.set(xscale="log", yscale="log", xlabel=x_key.replace("_", " "), ylabel=label)
        axis.set_title(f"{value} {held.replace('_', ' ')}")
        axis.grid(alpha=0.3, which="both")
    figure.axes[0].legend()
    return figure
