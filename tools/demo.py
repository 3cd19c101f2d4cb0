"""Ground phrases in a picture and save what the model saw, step by step.

python tools/demo.py                                   # sample scenes, the embedded toy model
python tools/demo.py IMAGE --phrase "the red circle" --phrase "small blue square"
python tools/demo.py IMAGE --phrase "the dog" --config CONFIG --checkpoint TRAINED_HEAD
python tools/demo.py IMAGE --phrase "the dog" --reader READER --refiner vit_b   # no training
"""

import argparse
import os
from pathlib import Path

from flmm.command_line import add_model_arguments, run_tool

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "image", nargs="?", help="path or address; default: sample scenes are drawn"
    )
    parser.add_argument("--phrase", action="append", default=[], help="may be given many times")
    add_model_arguments(parser)
    parser.add_argument("--out", default="outputs/demo", type=Path, help="folder for the pictures")
    parser.add_argument("--samples", type=int, default=3, help="sample scenes to draw (default 3)")
    parser.add_argument("--seed", type=int, default=3, help="of the sample scenes (default 3)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args()
    if bool(args.image) != bool(args.phrase):
        parser.error("IMAGE and --phrase go together: give both, or neither for the samples")
    return args


def main(args: argparse.Namespace) -> None:
    """Ground, print the table, save the pictures."""
    from flmm.apps.demo import DemoSample, demonstrate, load_sample_scenes
    from flmm.apps.opening import open_inferencer
    from flmm.checkpoints.chosen_weights import tell_weights
    from flmm.images import load_any_image, name_image

    inferencer = open_inferencer(args)
    tell_weights(inferencer.weights)
    if args.image:
        picture = load_any_image(args.image)
        samples = [DemoSample(name_image(args.image), picture, args.phrase)]
    else:
        samples = load_sample_scenes(args.samples, args.seed)
    demonstrate(inferencer, samples, args.out)


if __name__ == "__main__":
    run_tool(main, parse_args())
