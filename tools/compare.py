"""Lay two runs' predictions side by side: where is one better than the other?

python tools/compare.py CONFIG FIRST SECOND [--names 3b 7b] [--show 8] [--out FOLDER]

FIRST and SECOND are work folders (or .json files) of eval_refcoco.py or eval_png.py, run with
--save-predictions.
"""

import argparse
from pathlib import Path

from flmm.command_line import add_common_arguments, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file: its evaluation data sets have the true masks")
    parser.add_argument("first", help="work folder or predictions of one run")
    parser.add_argument("second", help="of the other")
    parser.add_argument(
        "--names", nargs=2, metavar="NAME", help="what to call them (default: of the paths)"
    )
    parser.add_argument(
        "--show", type=int, default=8, metavar="N", help="pictures of either direction (8)"
    )
    parser.add_argument("--out", help="folder for table and pictures (default: WORK_DIR/compare)")
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Load the config and compare."""
    from flmm.config import load_config

    config = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)

    from flmm.apps.comparison import compare_runs  # after the check: this loads torch

    names = args.names or [Path(args.first).stem, Path(args.second).stem]
    if names[0] == names[1]:
        names = ["first", "second"]
    folder = Path(args.out or Path(config.work_dir) / "compare")
    print(compare_runs(config, (args.first, args.second), tuple(names), folder, args.show))
    print(f"written: {folder / 'compare.md'} and {folder / 'compare.json'}")


if __name__ == "__main__":
    run_tool(main, parse_args())
