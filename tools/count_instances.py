"""Count the objects of phrases, and say how often that is right.

python tools/count_instances.py tiny_several_shapes [CHECKPOINT] [--limit N]

The data set says how many objects each phrase means (ShapeExpressionDataset does); found are the
connected parts of the mask, see GroundingResult.instances.
"""

import argparse
import os

from flmm.command_line import add_override_argument, run_tool

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="an experiment's config")
    parser.add_argument("checkpoint", nargs="?", help="default: the config's weights")
    parser.add_argument("--loader", choices=["val", "test"], default="test", help="whose data set")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--device", help="for example cuda:0; default: a GPU if there is one")
    add_override_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Build model and data set, count, print."""
    from flmm import GroundingInferencer
    from flmm.config import load_config
    from flmm.evaluation.instance_counts import count_instances, format_counts
    from flmm.head_selection import load_samples

    config = load_config(args.config, args.cfg_options)
    model = GroundingInferencer(config, args.checkpoint, args.device).model
    samples = load_samples(config, args.loader, limit=args.limit)
    print(format_counts(count_instances(model, samples)))


if __name__ == "__main__":
    run_tool(main, parse_args())
