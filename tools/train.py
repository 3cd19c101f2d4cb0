"""Train the head of a config: python tools/train.py CONFIG [--work-dir DIR] [--resume] [--amp]."""

import argparse

from flmm.command_line import add_common_arguments, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from the given checkpoint, or from the latest one in the work folder",
    )
    parser.add_argument(
        "--load-from", help="weights to begin with; with --resume, the checkpoint to resume"
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision (bfloat16)")
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Load the config and train it."""
    from flmm.config import load_config

    config = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)

    from flmm.training.runner import run_training

    run_training(config, resume=args.resume, load_from=args.load_from, amp=args.amp)


if __name__ == "__main__":
    run_tool(main, parse_args())
