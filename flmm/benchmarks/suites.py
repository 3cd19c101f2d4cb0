"""The benchmarks by name, what each prints, and where it writes.

In: names and settings from the command line. Out: tables on the screen, ``<name>.json`` and
``<name>.md`` in a folder, a plot for the reading. Measuring is the other files' duty.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flmm.benchmarks.caching import measure_caching
from flmm.benchmarks.evaluating import measure_evaluation
from flmm.benchmarks.plots import plot_reading
from flmm.benchmarks.precision import measure_layout_precision, measure_tiny_precision
from flmm.benchmarks.reading import list_columns, measure_reading
from flmm.benchmarks.reading_ways import WAYS, ReadingCase
from flmm.benchmarks.refining import measure_asking, measure_refining
from flmm.engine.provenance import describe_device, list_versions
from flmm.evaluation import format_markdown, format_text

Row = dict[str, Any]
TINY_CONFIG = "configs/tiny/tiny_unet_sam_shapes.py"


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured, and on what.

    Attributes:
        model, layers: layout of random weights, see :mod:`flmm.vlms.layouts`; ``None``: all layers.
        tokens: image tokens of the reading; all sizes with ``expressions[0]`` expressions, the
            first size with every number of expressions.
        expressions: numbers of expressions.
        ways: of ``flmm.benchmarks.reading_ways.WAYS``.
        repeats: timed runs.
        max_passes: of F-LMM's way in one run; more are scaled up, marked "~".
        sam: name of the refiner.
        device, dtype: of the reader.
        out: folder of the results.
    """

    model: str = "width-1024"
    layers: int | None = None
    tokens: Sequence[int] = (1000, 300, 2000, 4000, 8000)
    expressions: Sequence[int] = (7, 1, 30)
    ways: Sequence[str] = WAYS
    repeats: int = 3
    max_passes: int = 7
    sam: str = "vit_b"
    device: str = "cpu"
    dtype: str = "float32"
    out: str = "outputs/benchmark"

    @property
    def torch_device(self) -> torch.device:
        """The device as torch knows it."""
        return torch.device(self.device)


def run_benchmarks(names: Sequence[str], settings: BenchmarkSettings) -> None:
    """Run benchmarks one after the other, print and write each when it is done."""
    folder = Path(settings.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        rows, table = BENCHMARKS[name](settings)
        machine = f"{describe_device(settings.torch_device)}, {platform.machine()}, "
        machine += f"{torch.get_num_threads()} threads"
        content = {"machine": machine, "versions": list_versions(), "rows": rows}
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
        (folder / f"{name}.md").write_text(f"{machine}\n\n{format_markdown(table)}\n")
        if name == "read":
            plot_reading(rows, folder / "read.png")
        print(f"\n{name} ({machine})\n{format_text(table)}\n", flush=True)
    print(f"written: {folder}")


def list_cases(settings: BenchmarkSettings) -> list[ReadingCase]:
    """Every way at the first size and every number of expressions, then at the other sizes."""
    pairs = [(settings.tokens[0], count) for count in settings.expressions]
    pairs += [(tokens, settings.expressions[0]) for tokens in settings.tokens[1:]]
    cases = []
    for tokens, count in pairs:
        for way in settings.ways:
            if way == "floor" and count != settings.expressions[0]:
                continue  # it has no expressions
            if "joined" in way and count == 1:
                continue  # the same as isolated
            case = ReadingCase(
                way,
                settings.model,
                settings.layers,
                tokens,
                count,
                settings.repeats,
                settings.max_passes,
                settings.device,
                settings.dtype,
            )
            cases.append(case)
    return cases


def _read(settings: BenchmarkSettings) -> tuple[list[Row], list[list[str]]]:
    rows = measure_reading(list_cases(settings))
    return rows, list_columns(rows)


def _refine(settings: BenchmarkSettings) -> tuple[list[Row], list[list[str]]]:
    device = settings.torch_device
    rows = measure_refining(settings.sam, device, repeats=settings.repeats)
    if settings.sam != "tiny":
        rows += measure_refining("tiny", device, repeats=settings.repeats)
    return rows, _list_cells(rows)


def _ask(settings: BenchmarkSettings) -> tuple[list[Row], list[list[str]]]:
    rows = measure_asking(
        *(settings.model, settings.layers, settings.sam, settings.torch_device),
        image_tokens=settings.tokens[0],
        expressions=settings.expressions[0],
        repeats=settings.repeats,
    )
    return rows, _list_cells(rows)


def _evaluate(settings: BenchmarkSettings) -> tuple[list[Row], list[list[str]]]:
    rows = measure_evaluation(TINY_CONFIG, settings.torch_device, 10, settings.repeats)
    return rows, _list_cells(rows)


def _cache(settings: BenchmarkSettings) -> tuple[list[Row], list[list[str]]]:
    rows = measure_caching()
    return rows, _list_cells(rows)


def _precision(settings: BenchmarkSettings) -> tuple[list[Row], list[list[str]]]:
    device = settings.torch_device
    rows = measure_tiny_precision(TINY_CONFIG, device, images=50)
    rows += measure_layout_precision(settings.model, settings.layers, device)
    return rows, _list_cells(rows)


def _list_cells(rows: Sequence[Row]) -> list[list[str]]:
    """Header and cells of plain rows; a column that a row has not is "-"."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    titles = [name.replace("_s", " s").replace("_", " ") for name in names]
    cells = [[_format(row.get(name)) for name in names] for row in rows]
    return [titles, *cells]


def _format(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


BENCHMARKS: dict[str, Callable[[BenchmarkSettings], tuple[list[Row], list[list[str]]]]] = {
    "read": _read,
    "refine": _refine,
    "ask": _ask,
    "evaluate": _evaluate,
    "cache": _cache,
    "precision": _precision,
}

__all__ = ["BENCHMARKS", "BenchmarkSettings", "list_cases", "run_benchmarks"]
