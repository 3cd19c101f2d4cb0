"""Panoptic Narrative Grounding: average recall of all, singulars, plurals, things and stuff.

python tools/eval_png.py CONFIG [CHECKPOINT]
"""

import argparse

from flmm.command_line import add_common_arguments, run_tool
from flmm.evaluation.evaluation_options import add_evaluation_arguments, build_options


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_evaluation_arguments(parser)
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Load the config and evaluate it."""
    from flmm.config import load_config

    config = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)

    # After the check: this loads torch.
    from flmm.evaluation.evaluation_runs import run_png_evaluation

    run_png_evaluation(config, build_options(args))


if __name__ == "__main__":
    run_tool(main, parse_args())
