"""Which heads of a frozen reader point: by labels, without any, or as named by hand.

python tools/rank_heads.py CONFIG --data data/shapes --limit 50          # labels: masks of phrases
python tools/rank_heads.py CONFIG --method none --data data/shapes       # the phrases alone
python tools/rank_heads.py CONFIG --method none --pictures a.jpg b.jpg --phrases "a dog" "grass"
python tools/rank_heads.py CONFIG --method none --pictures a.jpg b.jpg   # the reader's own words
python tools/rank_heads.py CONFIG --method hand --heads 3,1 2,4

CONFIG is "tiny" where none is given, and --cfg-options reader=FOLDER another reader. The JSON
serves a config's RuleHead or SharedHead (choice=FILE) and tools/explain.py --heads FILE. No trained
head is needed. Choose heads on pictures other than those that are measured or explained afterwards.
"""

import argparse
import os
from typing import Any

from flmm.command_line import add_override_argument, run_tool

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", default="tiny", help="default: the embedded toy model")
    parser.add_argument(
        "--method", choices=["labels", "none", "hand"], default="labels", help="default: labels"
    )
    parser.add_argument("--data", help="folder of the data set (the config's data_root)")
    parser.add_argument("--loader", choices=["val", "test"], default="val", help="whose data set")
    parser.add_argument("--split", help="of the data set; default: the config's")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument(
        "--measure",
        choices=["inside_share", "hit_rate", "agreement", "entropy"],
        help="to rank by; default: inside_share with labels, agreement without",
    )
    parser.add_argument("--pictures", nargs="+", help="of your own, in place of the data set's")
    parser.add_argument("--phrases", nargs="+", help="of each of the pictures")
    parser.add_argument("--heads", nargs="+", type=parse_head, help="LAYER,HEAD from 0, best first")
    parser.add_argument("--count", type=int, help="keep so many heads, the best (default: all)")
    parser.add_argument("--top", type=int, default=20, help="rows of the table (default 20)")
    parser.add_argument("--device", help="for example cuda:0; default: a GPU if there is one")
    parser.add_argument("--out", default="outputs/heads.json", help="JSON of the chosen heads")
    add_override_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args()
    if (args.method == "hand") != bool(args.heads):
        parser.error("--method hand and --heads LAYER,HEAD go together")
    if (args.pictures or args.phrases) and (args.method != "none" or not args.pictures):
        parser.error("--pictures (with or without --phrases) is for --method none")
    return args


def parse_head(text: str) -> tuple[int, int]:
    """(layer, head) of ``"3,1"``."""
    try:
        layer, head = map(int, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no head: write LAYER,HEAD, as 3,1"
        ) from error
    return layer, head


def main(args: argparse.Namespace) -> None:
    """Build reader and data set, choose, print, save."""
    from flmm.config import load_config
    from flmm.head_choice import HeadChoice
    from flmm.head_selection import build_reader, choose_heads, load_samples, rank_heads

    data = {"data_root": args.data} if args.data else {}
    config = load_config(args.config, data | (args.cfg_options or {}))
    print(f"reader: {config.reader}; its own heads are ranked, no trained head is used")

    by = {"measure": args.measure} if args.measure else {}

    def load() -> Any:
        return load_samples(config, args.loader, args.split, args.limit)

    if args.method == "labels":
        samples = load()
        choice = rank_heads(build_reader(config, args.device), samples, **by)
    elif args.method == "hand":
        vlm = build_reader(config, args.device)
        sizes = vlm.num_layers, vlm.num_heads
        choice = HeadChoice(args.heads, *sizes, vlm.extra_repr(), "by hand", "named by hand")
    elif args.pictures:
        items = [(picture, args.phrases or ()) for picture in args.pictures]
        choice = choose_heads(build_reader(config, args.device), items, **by)
    else:
        pairs = ((item["inputs"], item["data_samples"].continuations) for item in load())
        items = (pair for pair in pairs if pair[0] is not None)
        choice = choose_heads(build_reader(config, args.device), items, **by)
    choice = choice.best(args.count or len(choice.heads))
    print(choice.format_table(args.top))
    print(f"chosen by {choice.method}: {choice.source}; saved {choice.save_json(args.out)}")


if __name__ == "__main__":
    run_tool(main, parse_args())
