"""Medians of several runs, on any device."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch


def time_call(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, everything that it started on the device included."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def time_alternately(
    calls: dict[str, Callable[[], Any]], device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds of several calls that take turns, so that a busy moment hits all of them.

    Args:
        calls: by name; each is called once more before, untimed.
        device: that they work on.
        repeats: timed rounds.
    """
    for call in calls.values():
        call()
    rounds = [
        {name: time_call(call, device) for name, call in calls.items()} for _ in range(repeats)
    ]
    return {name: [one[name] for one in rounds] for name in calls}


def describe_seconds(seconds: list[float]) -> dict[str, float]:
    """``median_s``, ``low_s`` and ``high_s``."""
    return {"median_s": median(seconds), "low_s": min(seconds), "high_s": max(seconds)}


def build_rows(what: str, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row per case with its seconds; ``ratio`` is the median against that of the first.

    Args:
        what: is measured, the same in every row.
        seconds: of the runs, by case.
    """
    rows: list[dict[str, Any]] = []
    for case, values in seconds.items():
        row = {"what": what, "case": case, **describe_seconds(values)}
        row["ratio"] = row["median_s"] / rows[0]["median_s"] if rows else 1.0
        rows.append(row)
    return rows


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything that was started on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


__all__ = ["build_rows", "describe_seconds", "synchronise", "time_alternately", "time_call"]
