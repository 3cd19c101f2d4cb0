"""Visual chain of thought: name the relevant object, point at it, look again, answer.

python tools/visual_cot.py CONFIG [CHECKPOINT] --version v1 \\
    --questions FILE_OR_FOLDER --images FOLDER --out RESULTS.json

Questions are in the format of the Visual CoT benchmark. Started again, it goes on where it stopped.
"""

import argparse

from flmm.apps.visual_cot.settings import VERSIONS
from flmm.command_line import add_common_arguments, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "checkpoint", nargs="?", help="trained weights (default: those the config names)"
    )
    parser.add_argument(
        "--version",
        choices=VERSIONS,
        default="v1",
        help="v1: point at the object that the reader names (default); v2: point with the "
        "question; v3: the plain answer",
    )
    parser.add_argument("--questions", required=True, help="question file, or a folder of them")
    parser.add_argument(
        "--images", required=True, help="folder that the pictures' paths start from"
    )
    parser.add_argument("--out", required=True, help="results, .json; scores are written beside it")
    parser.add_argument("--limit", type=int, help="only the first so many records of each file")
    parser.add_argument(
        "--restart", action="store_true", help="forget what an interrupted run had done"
    )
    parser.add_argument("--device", help="cpu, cuda:1, ... (default: a GPU where there is one)")
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Load the config and answer the questions."""
    from flmm.config import load_config

    config = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)

    from flmm.apps.visual_cot import (  # after the check: loads torch
        VisualCotOptions,
        run_visual_cot,
    )

    options = VisualCotOptions(
        questions=args.questions,
        images=args.images,
        out=args.out,
        version=args.version,
        checkpoint=args.checkpoint,
        limit=args.limit,
        restart=args.restart,
        device=args.device,
    )
    run_visual_cot(config, options)


if __name__ == "__main__":
    run_tool(main, parse_args())
