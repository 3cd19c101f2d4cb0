"""Converse about a picture in a terminal: words of question and answer point at pixels.

python tools/chat.py                                   # a drawn scene, the embedded toy model
python tools/chat.py IMAGE --config CONFIG --checkpoint TRAINED_HEAD
python tools/chat.py IMAGE --reader READER --refiner vit_b   # no training
python tools/chat.py IMAGE --select brackets keywords  # which words point
echo "Where is [the red cup]?" | python tools/chat.py IMAGE

Words in [brackets] are pointed at; /help lists the commands.
"""

import argparse
import os
import sys
from pathlib import Path

from flmm.command_line import add_model_arguments, run_tool

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "image", nargs="?", help="path or address; default: a sample scene is drawn"
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--select",
        nargs="+",
        metavar="NAME",
        help="words that point: brackets, noun_chunks, reader, keywords (default: the config's)",
    )
    parser.add_argument("--out", default="outputs/chat", type=Path, help="folder for the pictures")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="the longest answer")
    parser.add_argument("--begin", default="", help="words that every answer begins with")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Converse up to the end of the input; from a pipe, a mistake makes the exit code 1."""
    from flmm.apps.opening import open_inferencer
    from flmm.apps.terminal import ChatSettings, TerminalChat, open_terminal

    inferencer = open_inferencer(args)
    terminal = open_terminal()
    settings = ChatSettings(args.out, args.select, args.max_new_tokens, args.begin)
    chat = TerminalChat(inferencer, settings, terminal)
    if args.image:
        chat.open(args.image)
    else:
        chat.open_sample()
    chat.run()
    if chat.mistakes and terminal.echo:
        sys.exit(1)


if __name__ == "__main__":
    run_tool(main, parse_args())
