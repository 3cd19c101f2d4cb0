"""Fill the feature cache of a config ahead of its training, on any number of processes.

python tools/cache_features.py CONFIG [--splits train val] [--launcher pytorch]
"""

import argparse

from flmm.command_line import add_common_arguments, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file with feature_cache")
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=["train", "val", "test"],
        default=["train"],
        help="(default: train)",
    )
    parser.add_argument(
        "--amp", action="store_true", help="for a training that will be started with --amp"
    )
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Load the config and fill its cache."""
    from flmm.config import load_config

    config = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
    if args.amp:
        config.merge_from_dict({"optim_wrapper.type": "AmpOptimWrapper"})
        config.optim_wrapper.setdefault("dtype", "bfloat16")

    from flmm.training.feature_caching import fill_cache  # after the check: this loads torch

    fill_cache(config, args.splits)


if __name__ == "__main__":
    run_tool(main, parse_args())
