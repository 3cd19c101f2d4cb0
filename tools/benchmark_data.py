"""What loading RefCOCO costs, ours beside mmdet's: python tools/benchmark_data.py --out FOLDER.

Without --data-root, a data set of the published layout and size (19,994 images, 50,000 refs,
142,210 sentences, 196,771 annotations; no pictures) is made up in a temporary folder. Each loader
is measured in a process of its own, the median of --repeat runs counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flmm.data.load_benchmark import LoadCost


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", help="measure the real files of this data root instead")
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    parser.add_argument("--repeat", type=int, default=3, help="runs per loader and split")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the published size")
    parser.add_argument("--out", help="folder for data_loading.json and data_loading.md")
    return parser.parse_args()


def measure(root: str, args: argparse.Namespace) -> list[LoadCost]:
    """The median run of each loader on each split."""
    from flmm.data.load_benchmark import LOADERS, measure_loading

    costs = []
    for split in args.splits:
        # In turn, so that a busy moment of the machine does not hit one loader alone.
        rounds = [
            [measure_loading(root, loader, split) for loader in LOADERS] for _ in range(args.repeat)
        ]
        costs += [find_median(list(runs)) for runs in zip(*rounds)]
    return costs


def find_median(runs: list[LoadCost]) -> LoadCost:
    """The median of each figure."""
    names = ("load_s", "load_cpu_s", "peak_mib", "held_mib", "iterate_s")
    medians = {name: statistics.median(getattr(run, name) for run in runs) for name in names}
    return replace(runs[0], **medians)


def main(args: argparse.Namespace) -> None:
    """Make the data if need be, measure, print and write."""
    from flmm.data.load_benchmark import format_table
    from flmm.data.published_size import write_published_size

    with tempfile.TemporaryDirectory() as folder:
        root = args.data_root or folder
        counts = None if args.data_root else write_published_size(root, scale=args.scale)
        costs = measure(root, args)
    table = format_table(costs)
    print(table)
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        content = {
            "command": " ".join(["python", *sys.argv]),
            "python": platform.python_version(),
            "machine": platform.platform(),
            "made_up": counts,
            "costs": [asdict(cost) for cost in costs],
        }
        (Path(args.out) / "data_loading.json").write_text(json.dumps(content, indent=2) + "\n")
        (Path(args.out) / "data_loading.md").write_text(table + "\n")


if __name__ == "__main__":
    main(parse_args())
