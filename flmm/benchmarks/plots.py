"""Cost of reading attention as curves: against image tokens and against expressions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Row = dict[str, Any]
PANELS = (
    ("image_tokens", "median_s", "seconds"),
    ("image_tokens", "extra_mb", "extra memory, MB"),
    ("expressions", "median_s", "seconds"),
)


def plot_reading(rows: Sequence[Row], path: Path) -> None:
    """Save the curves of the rows of :func:`flmm.benchmarks.reading.measure_reading`.

    Args:
        rows: see :func:`draw_reading`; where none was run, nothing is written.
        path: of the picture; folders are made.
    """
    if all(row["why_not"] is not None for row in rows):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_reading(rows).savefig(path, dpi=110)


def draw_reading(rows: Sequence[Row]) -> Figure:
    """One panel of ``PANELS`` beside the other, a curve for each way in each.

    Args:
        rows: those that were not run are left out; one at least was.
    """
    done = [row for row in rows if row["why_not"] is None]
    # What the other axis is held at: near the field's usual 7 expressions and 1000 tokens.
    held = {
        "image_tokens": ("expressions", _find_nearest(done, "expressions", 7)),
        "expressions": ("image_tokens", _find_nearest(done, "image_tokens", 1000)),
    }
    # No pyplot: its state is the process's, and it would ask for a screen.
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    for axis, (x_key, y_key, label) in zip(figure.subplots(1, len(PANELS)), PANELS):
        held_key, value = held[x_key]
        for way in dict.fromkeys(row["way"] for row in done):
            points = _list_points(done, way, (x_key, y_key), (held_key, value))
            if len(points) == 1 and way == "floor":
                axis.axhline(points[0][1], linestyle=":", color="gray", label=way)
            elif points:
                axis.plot(*zip(*points), marker="o", label=way)
        axis.set(xscale="log", yscale="log", xlabel=x_key.replace("_", " "), ylabel=label)
        ticks = sorted({row[x_key] for row in done if row[held_key] == value})
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.set_title(f"{value} {held_key.replace('_', ' ')}")
        axis.grid(alpha=0.3, which="both")
    figure.axes[0].legend()
    return figure


def _find_nearest(rows: Sequence[Row], key: str, wanted: int) -> int:
    """The value of ``key`` that most rows can be compared at; the floor has no expressions."""
    asking = [row for row in rows if not (key == "expressions" and row["way"] == "floor")]
    values = {row[key] for row in asking or rows}
    return min(values, key=lambda value: abs(value - wanted))


def _list_points(
    rows: Sequence[Row], way: str, axes: tuple[str, str], held: tuple[str, int]
) -> list[tuple[float, float]]:
    """Points of one curve; the floor does not depend on expressions."""
    (x_key, y_key), (held_key, value) = axes, held
    free = way == "floor" and held_key == "expressions"
    return sorted(
        (row[x_key], row[y_key])
        for row in rows
        if row["way"] == way and row[y_key] and (free or row[held_key] == value)
    )


__all__ = ["draw_reading", "plot_reading"]
