"""Test a config: python tools/test.py CONFIG [CHECKPOINT] [--out metrics.json] [--show N]."""

import argparse

from flmm.command_line import add_common_arguments, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "checkpoint", nargs="?", help="trained weights (default: those the config names)"
    )
    parser.add_argument("--out", help="JSON file: metrics, rows per kind, counts, what is skipped")
    parser.add_argument(
        "--show",
        type=int,
        metavar="N",
        help="draw the N worst and the N best expressions into WORK_DIR/shown",
    )
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Load the config and test it."""
    from flmm.config import load_config

    config = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)

    from flmm.training.runner import run_test

    run_test(config, checkpoint=args.checkpoint, out=args.out, show=args.show)


if __name__ == "__main__":
    run_tool(main, parse_args())
