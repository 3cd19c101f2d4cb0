"""Cost of reading attention: F-LMM's way, ours and the bare prefill, as ratios of one run.

In: a layout, numbers of image tokens and expressions. Out: rows with median seconds, spread, where
the seconds go, peak extra memory, the largest tensor, and ratios against ours and the floor. Every
case runs in a process of its own. Not its duty: tables and plots of the rows.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from flmm.benchmarks.memory import read_available_bytes
from flmm.benchmarks.reading_ways import ReadingCase
from flmm.benchmarks.timing import describe_seconds
from flmm.readers.layouts import build_layout_config

Row = dict[str, Any]
# The same results within float32's rounding; half precision rounds far coarser.
TOLERANCES = {"float32": 1e-4, "float16": 5e-2, "bfloat16": 2e-1}
_OUT_OF_MEMORY = "ran out of memory"


def measure_reading(cases: Iterable[ReadingCase]) -> list[Row]:
    """Run cases, one process each, and compare those with the same inputs.

    Returns:
        one row per case, see :func:`build_row`; of a case that did not run, its fields and
        ``why_not``, the reason; where ours is there too, with the ratios of
        :func:`compare_rows`.

    Raises:
        RuntimeError: a case failed; its own message is told.
        ValueError: two ways disagree about the maps.
    """
    rows: list[Row] = []
    maps: dict[int, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for index, case in enumerate(tqdm(list(cases), desc="reading", unit="case")):
            why_not = find_obstacle(case)
            result = None
            if why_not is None:
                result, found = _run_case(case, Path(folder) / str(index))
                why_not = _OUT_OF_MEMORY if result is None else None
                if found is not None:
                    maps[index] = found
            rows.append(build_row(case, result, why_not))
    compare_rows(rows, maps)
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


def build_row(
    case: ReadingCase, result: Mapping[str, Any] | None, why_not: str | None = None
) -> Row:
    """What a case cost.

    Args:
        case: what was run.
        result: the plain values of :func:`flmm.benchmarks.reading_ways.measure_case`.
        why_not: the reason, where there is no result.

    Returns:
        the case's fields (``image_tokens`` as they really were), ``median_s``, ``low_s``,
        ``high_s``; of one run ``vision_s``, ``layers_s``, ``head_s`` and ``rest_s``;
        ``images_per_s``, ``expressions_per_s`` (``None`` for the floor), ``gpu_percent``,
        ``extra_mb``, ``largest_mb``, ``largest_shape``, ``extrapolated`` and ``why_not``.
    """
    if result is None:
        return {**asdict(case), "why_not": why_not}
    times = describe_seconds(result["seconds"])
    extra = result["extra_bytes"]
    asks = case.way != "floor"
    return {
        **asdict(case),
        "image_tokens": result["image_tokens"],
        **times,
        **{f"{part}_s": value for part, value in result["parts"].items()},
        "images_per_s": 1 / times["median_s"],
        "expressions_per_s": case.expressions / times["median_s"] if asks else None,
        "gpu_percent": result["gpu_percent"],
        "extra_mb": None if extra is None else extra / 2**20,
        "largest_mb": result["largest_bytes"] / 2**20,
        "largest_shape": result["largest_shape"],
        "extrapolated": result["extrapolated"],
        "why_not": None,
    }


def _run_case(case: ReadingCase, path: Path) -> tuple[Row | None, np.ndarray | None]:
    """The result and the maps of a case; nothing of one that ran out of memory."""
    case_path, result_path = path.with_suffix(".case.json"), path.with_suffix(".result.json")
    case_path.write_text(json.dumps(asdict(case)))
    command = [sys.executable, "-m", "flmm.benchmarks.reading_ways", case_path, result_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines() or ["no message"]
    # The kernel kills a process that takes too much, torch raises on a GPU and where malloc fails.
    if done.returncode == -signal.SIGKILL or any(
        word in lines[-1] for word in ("OutOfMemoryError", "can't allocate memory")
    ):
        return None, None
    if done.returncode:
        raise RuntimeError(f"{case} failed: {lines[-1]}")
    maps_path = result_path.with_suffix(".npy")
    maps = np.load(maps_path) if maps_path.exists() else None
    return json.loads(result_path.read_text()), maps


def compare_rows(rows: Sequence[Row], maps: Mapping[int, np.ndarray]) -> None:
    """Add the ratios against ours and the floor of the same inputs to the rows.

    Args:
        rows: of :func:`build_row`; get ``time_over_ours``, ``memory_over_ours``,
            ``time_over_floor`` and, F-LMM's, ``difference`` (relative, of the maps).
        maps: of the rows, by their place.

    Raises:
        ValueError: F-LMM's way and ours disagree about the maps.
    """
    done = [index for index, row in enumerate(rows) if row["why_not"] is None]
    for index in done:
        row = rows[index]
        same = [other for other in done if _have_same_inputs(rows[other], row)]
        for other in same:
            if rows[other]["way"] == "floor":
                row["time_over_floor"] = row["median_s"] / rows[other]["median_s"]
            if _is_twin(rows[other], row):
                _compare_with_ours(row, rows[other], maps.get(index), maps.get(other))


def _have_same_inputs(row: Row, other: Row) -> bool:
    keys = ("layout", "layers", "image_tokens", "device", "dtype")
    return all(row[key] == other[key] for key in keys)


def _is_twin(ours: Row, row: Row) -> bool:
    """Whether the first is our way of what the second does."""
    way = "ours joined" if "joined" in row["way"] else "ours"
    return ours["way"] == way and ours["expressions"] == row["expressions"]


def _compare_with_ours(
    row: Row, ours: Row, maps: np.ndarray | None, our_maps: np.ndarray | None
) -> None:
    row["time_over_ours"] = row["median_s"] / ours["median_s"]
    if row["extra_mb"] and ours["extra_mb"]:
        row["memory_over_ours"] = row["extra_mb"] / ours["extra_mb"]
    if not row["way"].startswith("flmm"):
        return
    if maps is None or our_maps is None:
        raise ValueError(f"{row['way']} or ours gave no maps: their speeds cannot be compared")
    expected = our_maps[: len(maps)]
    row["difference"] = float(np.linalg.norm(maps - expected) / np.linalg.norm(expected))
    if not row["difference"] <= TOLERANCES[row["dtype"]]:
        raise ValueError(
            f"{row['way']} and ours differ by {row['difference']:.1e} (relative): their speeds "
            "cannot be compared"
        )


__all__ = ["build_row", "compare_rows", "find_obstacle", "measure_reading"]
