"""What pointing costs and reaches, as ratios of one run; the benchmarks by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flmm.benchmarks.conversing import converse
from flmm.benchmarks.harness import BenchmarkSettings, Row, describe_machine, write_rows
from flmm.benchmarks.pointing import point
from flmm.benchmarks.reading import read
from flmm.benchmarks.stopping import stop
from flmm.benchmarks.working import ask, cache, evaluate, many, precision, refine

_CALLS = (read, stop, refine, ask, converse, evaluate, cache, precision, point, many)
BENCHMARKS: dict[str, Callable[[BenchmarkSettings], list[Row]]] = {
    call.__name__: call for call in _CALLS
}


def run_benchmarks(names: Sequence[str], settings: BenchmarkSettings) -> None:
    """Run benchmarks one after the other, print and write each when it is done."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        raise ValueError(f"no benchmark {', '.join(unknown)}: choose of {', '.join(BENCHMARKS)}")
    folder = Path(settings.out)
    for name in names:
        machine = describe_machine(settings.torch_device)
        write_rows(name, BENCHMARKS[name](settings), folder, machine)
    print(f"written: {folder}")
