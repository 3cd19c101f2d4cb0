"""The RefCOCO evaluation script: one table of the standard splits under named protocols.

python tools/eval_refcoco.py CONFIG [CHECKPOINT] [--protocol standard|flmm|both]
                             [--baseline attention box both --heads HEADS.json]
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
    parser.add_argument(
        "--protocol",
        choices=["standard", "flmm", "both"],
        default="standard",
        help="standard: every sentence alone (LISA, Sa2VA); flmm: first sentences, joined (F-LMM)",
    )
    parser.add_argument(
        "--baseline",
        nargs="+",
        choices=["attention", "box", "both"],
        help="rows of what points without training, from the same pass over the pictures: where "
        "words look, the boxes that the frozen model names, both",
    )
    parser.add_argument(
        "--baseline-only", action="store_true", help="leave out the trained head's rows"
    )
    parser.add_argument("--heads", help="which heads point: JSON of tools/rank_heads.py")
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Load the config and evaluate it."""
    from flmm.config import load_config

    config = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)

    # After the check: this loads torch.
    from flmm.evaluation.evaluation_runs import run_refcoco_evaluation

    run_refcoco_evaluation(config, build_options(args))


if __name__ == "__main__":
    run_tool(main, parse_args())
