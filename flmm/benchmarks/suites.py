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
from flmm.benchmarks.conversing import measure_conversing
from flmm.benchmarks.evaluating import measure_evaluation
from flmm.benchmarks.many_phrases import measure_many_phrases
from flmm.benchmarks.plots import plot_reading
from flmm.benchmarks.pointing import measure_pointing
from flmm.benchmarks.precision import measure_layout_precision, measure_tiny_precision
from flmm.benchmarks.reading import TOLERANCES, measure_reading
from flmm.benchmarks.reading_tables import list_columns, list_remarks
from flmm.benchmarks.reading_ways import WAYS, ReadingCase
from flmm.benchmarks.refining import measure_asking, measure_refining
from flmm.provenance import describe_device, list_versions
from flmm.readers.layouts import LAYOUTS
from flmm.tables import format_markdown, format_text

Row = dict[str, Any]
SAM_NAMES = ("tiny", "vit_b", "vit_l", "vit_h")
TINY_CONFIG = "configs/tiny/tiny_unet_sam_shapes.py"


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured, and on what.

    Attributes:
        model, layers: layout of random weights, see :mod:`flmm.readers.layouts`; ``None``: all.
        tokens: image tokens of the reading.
        expressions: numbers of expressions.
        every_pair: all sizes with all numbers, as always on a GPU; else all sizes with
            ``expressions[0]``, and the first size with every number.
        ways: of ``flmm.benchmarks.reading_ways.WAYS``.
        repeats: timed runs.
        max_passes: of F-LMM's way in one run; more are scaled up, marked "~".
        sam: name of the refiner.
        device, dtype: of the reader.
        out: folder of the results.

    Raises:
        ValueError: a value is impossible, or the device is not there.
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
    every_pair: bool = False

    def __post_init__(self) -> None:
        if self.model not in LAYOUTS:
            raise ValueError(f"--model {self.model}: choose of {', '.join(LAYOUTS)}")
        unknown = [way for way in self.ways if way not in WAYS]
        if unknown:
            raise ValueError(f"--ways {unknown[0]!r}: choose of {', '.join(WAYS)}")
        if self.dtype not in TOLERANCES:
            raise ValueError(f"--dtype {self.dtype}: choose of {', '.join(TOLERANCES)}")
        if self.sam not in SAM_NAMES:
            raise ValueError(f"--sam {self.sam}: choose of {', '.join(SAM_NAMES)}")
        counts = {"tokens": self.tokens, "expressions": self.expressions}
        counts |= {"repeats": [self.repeats], "max-passes": [self.max_passes]}
        counts |= {"layers": [] if self.layers is None else [self.layers]}
        for name, values in counts.items():
            if any(value < 1 for value in values):
                raise ValueError(f"--{name} {' '.join(map(str, values))}: give numbers above 0")
        if self.torch_device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"--device {self.device}: torch sees no GPU here; give --device cpu")

    @property
    def torch_device(self) -> torch.device:
        """The device as torch knows it.

        Raises:
            ValueError: it knows none of this name.
        """
        try:
            return torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"--device {self.device}: give cpu, cuda or cuda:1") from error


def run_benchmarks(names: Sequence[str], settings: BenchmarkSettings) -> None:
    """Run benchmarks one after the other, print and write each when it is done.

    Raises:
        ValueError: there is no benchmark of a name.
    """
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        raise ValueError(f"no benchmark {', '.join(unknown)}: choose of {', '.join(BENCHMARKS)}")
    folder = Path(settings.out)
    folder.mkdir(parents=True, exist_ok=True)
    machine = f"{describe_device(settings.torch_device)}, {platform.machine()}, "
    machine += f"{torch.get_num_threads()} threads"
    for name in names:
        rows = BENCHMARKS[name](settings)
        content = {"machine": machine, "versions": list_versions(), "rows": rows}
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
        shown = whole = list_cells(rows)
        remarks: list[str] = []
        if name == "read":
            shown, whole = list_columns(rows), list_columns(rows, has_details=True)
            remarks = list_remarks(rows)
            plot_reading(rows, folder / "read.png")
        text = "\n\n".join([machine, format_markdown(whole), *remarks])
        (folder / f"{name}.md").write_text(text + "\n")
        print("\n".join([f"\n{name} ({machine})", format_text(shown), *remarks, ""]), flush=True)
    print(f"written: {folder}")


def list_cases(settings: BenchmarkSettings) -> list[ReadingCase]:
    """Every way at the first size and every number of expressions, then at the other sizes."""
    pairs = [(settings.tokens[0], count) for count in settings.expressions]
    is_full = settings.every_pair or settings.torch_device.type == "cuda"
    others = settings.expressions if is_full else settings.expressions[:1]
    pairs += [(tokens, count) for tokens in settings.tokens[1:] for count in others]
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


def _read(settings: BenchmarkSettings) -> list[Row]:
    return measure_reading(list_cases(settings))


def _refine(settings: BenchmarkSettings) -> list[Row]:
    names = dict.fromkeys([settings.sam, "tiny"])
    device, repeats = settings.torch_device, settings.repeats
    return [row for name in names for row in measure_refining(name, device, repeats=repeats)]


def _ask(settings: BenchmarkSettings) -> list[Row]:
    return measure_asking(
        *(settings.model, settings.layers, settings.sam, settings.torch_device),
        image_tokens=settings.tokens[0],
        expressions=settings.expressions[0],
        repeats=settings.repeats,
    )


def _converse(settings: BenchmarkSettings) -> list[Row]:
    return measure_conversing(
        *(settings.model, settings.layers, settings.torch_device),
        image_tokens=settings.tokens[0],
        dtype=settings.dtype,
        repeats=settings.repeats,
    )


def _evaluate(settings: BenchmarkSettings) -> list[Row]:
    return measure_evaluation(TINY_CONFIG, settings.torch_device, 10, settings.repeats)


def _cache(settings: BenchmarkSettings) -> list[Row]:
    return measure_caching(
        *(settings.model, settings.layers, settings.sam, settings.torch_device),
        image_tokens=settings.tokens[0],
        repeats=settings.repeats,
    )


def _precision(settings: BenchmarkSettings) -> list[Row]:
    device = settings.torch_device
    rows = measure_tiny_precision(TINY_CONFIG, device, images=50)
    return rows + measure_layout_precision(settings.model, settings.layers, device)


def _point(settings: BenchmarkSettings) -> list[Row]:
    return measure_pointing(TINY_CONFIG, settings.torch_device)


def _many(settings: BenchmarkSettings) -> list[Row]:
    return measure_many_phrases(TINY_CONFIG, settings.torch_device, settings.expressions)


def list_cells(rows: Sequence[Row]) -> list[list[str]]:
    """Header and cells of plain rows; a column that a row has not is "-"."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    titles = [name.replace("_s", " s").replace("_", " ") for name in names]
    cells = [[_format(row.get(name)) for name in names] for row in rows]
    return [titles, *cells]


def _format(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


BENCHMARKS: dict[str, Callable[[BenchmarkSettings], list[Row]]] = {
    "read": _read,
    "refine": _refine,
    "ask": _ask,
    "converse": _converse,
    "evaluate": _evaluate,
    "cache": _cache,
    "precision": _precision,
    "point": _point,
    "many": _many,
}

__all__ = ["BENCHMARKS", "BenchmarkSettings", "list_cases", "list_cells", "run_benchmarks"]
