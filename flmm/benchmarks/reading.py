"""Cost of reading attention: F-LMM's way, ours and the bare prefill, as ratios of one run.

In: a layout, numbers of image tokens and expressions. Out: rows with median seconds, spread, peak
extra memory, the largest tensor, ratios against ours and against the floor; a plot of cost against
image tokens and against expressions. Every case runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from flmm.benchmarks.memory import read_available_bytes
from flmm.benchmarks.reading_ways import ReadingCase
from flmm.benchmarks.timing import describe_seconds
from flmm.vlms.layouts import build_layout_config

Row = dict[str, Any]
# The same results within float32's rounding; half precision rounds far coarser.
TOLERANCES = {"float32": 1e-4, "float16": 5e-2, "bfloat16": 2e-1}


def measure_reading(cases: Iterable[ReadingCase]) -> list[Row]:
    """Run cases, one process each, and compare those with the same inputs.

    Returns:
        one row per case: its fields, ``median_s``, ``low_s``, ``high_s``, ``extra_mb``,
        ``largest_mb``, ``largest_shape``, ``extrapolated``, ``why_not`` (a reason, where the case
        was not run), and, where ours is there too, ``time_over_ours``, ``memory_over_ours``,
        ``time_over_floor`` and ``difference`` (relative, of the maps).

    Raises:
        RuntimeError: a case failed; its own message is told.
        ValueError: two ways disagree about the maps.
    """
    rows, maps = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for index, case in enumerate(tqdm(list(cases), desc="reading", unit="case")):
            why_not = find_obstacle(case)
            if why_not is None:
                row, maps[index] = _run_case(case, Path(folder) / str(index))
            else:
                row = {**asdict(case), "why_not": why_not}
            rows.append(row)
    for index, row in enumerate(rows):
        _compare(row, maps.get(index), rows, maps)
    return rows


def find_obstacle(case: ReadingCase) -> str | None:
    """Why a case cannot run here: F-LMM's way would need more memory than there is.

    It keeps L matrices ``[A, S, S]``, and with softmax and copy about three of a layer at once.
    """
    available = read_available_bytes(torch.device(case.device))
    if not case.way.startswith("flmm") or available is None:
        return None
    text = build_layout_config(case.layout, case.layers).get_text_config()
    value_bytes = 4 if case.dtype == "float32" else 2
    matrix = text.num_attention_heads * case.image_tokens**2 * value_bytes
    # The vision tower's own matrices, 4 patches per token and side, exist one layer at a time.
    patches = 16 * (4 * case.image_tokens) ** 2 * value_bytes * 2
    needed = matrix * (text.num_hidden_layers + 3) + patches
    if needed < 0.8 * available:
        return None
    return f"needs about {needed / 2**30:.0f} GiB, {available / 2**30:.0f} GiB are free"


def _run_case(case: ReadingCase, path: Path) -> tuple[Row, np.ndarray | None]:
    case_path, result_path = path.with_suffix(".case.json"), path.with_suffix(".result.json")
    case_path.write_text(json.dumps(asdict(case)))
    command = [sys.executable, "-m", "flmm.benchmarks.reading_ways", case_path, result_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(f"{case} failed: {lines[-1] if lines else 'no message'}")
    result = json.loads(result_path.read_text())
    maps_path = result_path.with_suffix(".npy")
    maps = np.load(maps_path) if maps_path.exists() else None
    seconds, extra = result["seconds"], result["extra_bytes"]
    row = {
        **asdict(case),
        "image_tokens": result["image_tokens"],
        **describe_seconds(seconds),
        "extra_mb": None if extra is None else extra / 2**20,
        "largest_mb": result["largest_bytes"] / 2**20,
        "largest_shape": result["largest_shape"],
        "extrapolated": result["extrapolated"],
        "why_not": None,
    }
    return row, maps


def _compare(
    row: Row, maps: np.ndarray | None, rows: Sequence[Row], all_maps: dict[int, np.ndarray | None]
) -> None:
    """Add the ratios against ours and the floor of the same inputs."""
    if row["why_not"] is not None:
        return
    same = [
        index
        for index, other in enumerate(rows)
        if other["why_not"] is None
        and all(other[k] == row[k] for k in ("layout", "layers", "image_tokens", "device", "dtype"))
    ]
    twin = "ours joined" if "joined" in row["way"] else "ours"
    for index in same:
        other = rows[index]
        if other["way"] == "floor":
            row["time_over_floor"] = row["median_s"] / other["median_s"]
        if other["way"] == twin and other["expressions"] == row["expressions"]:
            row["time_over_ours"] = row["median_s"] / other["median_s"]
            if row["extra_mb"] and other["extra_mb"]:
                row["memory_over_ours"] = row["extra_mb"] / other["extra_mb"]
            if maps is not None and row["way"].startswith("flmm"):
                row["difference"] = _compute_difference(maps, all_maps[index])
                if row["difference"] > TOLERANCES[row["dtype"]]:
                    raise ValueError(
                        f"{row['way']} and ours differ by {row['difference']:.1e} (relative): "
                        "their speeds cannot be compared"
                    )


def _compute_difference(maps: np.ndarray, ours: np.ndarray | None) -> float:
    if ours is None:
        raise ValueError("ours gave no maps")
    expected = ours[: len(maps)]
    return float(np.linalg.norm(maps - expected) / np.linalg.norm(expected))


def list_columns(rows: Sequence[Row]) -> list[list[str]]:
    """Header and cells of the table."""
    header = ["image tokens", "expressions", "way", "median s", "spread s", "x ours", "x floor"]
    header += ["extra MB", "x ours", "largest tensor", "difference"]
    table = [header]
    for row in rows:
        start = [str(row["image_tokens"]), str(row["expressions"]), row["way"]]
        if row["why_not"]:
            table.append([*start, row["why_not"], *["-"] * (len(header) - 4)])
            continue
        about = "~" if row["extrapolated"] else ""
        shape = "x".join(map(str, row["largest_shape"]))
        table.append(
            [
                *start,
                f"{about}{row['median_s']:.2f}",
                f"{row['low_s']:.2f}-{row['high_s']:.2f}",
                _format_ratio(row.get("time_over_ours")),
                _format_ratio(row.get("time_over_floor")),
                "-" if row["extra_mb"] is None else f"{row['extra_mb']:.0f}",
                _format_ratio(row.get("memory_over_ours")),
                f"{shape} ({row['largest_mb']:.0f} MB)",
                "-" if "difference" not in row else f"{row['difference']:.0e}",
            ]
        )
    return table


def _format_ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


__all__ = ["find_obstacle", "list_columns", "measure_reading"]
