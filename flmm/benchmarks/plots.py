"""Cost of reading attention as curves: against image tokens and against expressions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PANELS = (
    ("image_tokens", "median_s", "seconds"),
    ("image_tokens", "extra_mb", "extra memory, MB"),
    ("expressions", "median_s", "seconds"),
)


def plot_reading(rows: Sequence[Row], path: Path) -> None:
    """Save the curves of the rows of :func:`flmm.benchmarks.reading.measure_reading`.

    Args:
        rows: those that were not run are left out.
        path: of the picture; folders are made.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    done = [row for row in rows if row["why_not"] is None]
    # What the other axis is held at: near the field's usual 7 expressions and 1000 tokens.
    held = {
        "image_tokens": ("expressions", _find_nearest(done, "expressions", 7)),
        "expressions": ("image_tokens", _find_nearest(done, "image_tokens", 1000)),
    }
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 4.5), layout="constrained")
    for axis, (x_key, y_key, label) in zip(axes, PANELS):
        held_key, value = held[x_key]
        for way in dict.fromkeys(row["way"] for row in done):
            points = _list_points(done, way, (x_key, y_key), (held_key, value))
            if len(points) == 1 and way == "floor":
                axis.axhline(points[0][1], linestyle=":", color="gray", label=way)
            elif points:
                axis.plot(*zip(*points), marker="o", label=way)
        axis.set(xscale="log", yscale="log", xlabel=x_key.replace("_", " "), ylabel=label)
        axis.set_title(f"{value} {held_key.replace('_', ' ')}")
        axis.grid(alpha=0.3, which="both")
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _find_nearest(rows: Sequence[Row], key: str, wanted: int) -> int:
    """The value of ``key`` that most rows can be compared at; the floor has no expressions."""
    values = {row[key] for row in rows if not (key == "expressions" and row["way"] == "floor")}
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


__all__ = ["plot_reading"]
