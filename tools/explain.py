"""Ask about a picture and see where every word looks; or which words look at a box.

python tools/explain.py IMAGE --ask "What is in the picture?"
python tools/explain.py IMAGE --ask "..." --word circle --box 40 30 120 90
python tools/explain.py IMAGE --ask "..." --config CONFIG --checkpoint HEAD --heads heads.json

Saves a page (.html), a sheet (.png) and all maps (.json). Numbers of pictures, layers, heads and
tokens count from 0.
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
        "image", nargs="+", help="paths or addresses; all are shown before the question"
    )
    parser.add_argument("--ask", action="append", required=True, help="questions, one per turn")
    parser.add_argument("--begin", default="", help="words that every answer begins with")
    parser.add_argument(
        "--word", action="append", default=[], help="also the mask of these words; repeatable"
    )
    parser.add_argument(
        "--box",
        action="append",
        default=[],
        nargs=4,
        type=float,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="which tokens look there, in pixels of the picture; repeatable",
    )
    parser.add_argument("--picture", type=int, default=0, help="of the boxes (default 0)")
    parser.add_argument("--top", type=int, default=8, help="merge so many of --heads (default 8)")
    add_model_arguments(parser)
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, help="of an answer (default 256)"
    )
    parser.add_argument("--out", default="outputs/explain", type=Path, help="folder of the files")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Ask, explain, save."""
    from flmm.apps.explanation import explain
    from flmm.apps.explanation.explanation import save_results
    from flmm.apps.opening import open_inferencer
    from flmm.checkpoints.chosen_weights import tell_weights
    from flmm.head_choice import load_head_choice
    from flmm.images import load_any_image, name_image

    choice = load_head_choice(args.heads).best(args.top) if args.heads else None
    args.heads = args.heads if args.reader else None  # of a trained head, they are shown alone
    inferencer = open_inferencer(args)
    if choice is not None:
        choice.check(inferencer.model.vlm)
    tell_weights(inferencer.weights)
    first, *others = map(load_any_image, args.image)
    chat = inferencer.chat(first)
    for number, question in enumerate(args.ask):
        images = others if number == 0 else []
        chat.ask(question, images, max_new_tokens=args.max_new_tokens, begin=args.begin)
    explanation = explain(chat, choice and choice.heads)
    save_results(
        explanation, args.out, name_image(args.image[0]), args.word, args.box, args.picture
    )


if __name__ == "__main__":
    run_tool(main, parse_args())
