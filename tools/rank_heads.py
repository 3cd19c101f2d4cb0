"""Rank a frozen reader's heads by how well each points on a labelled set.

python tools/rank_heads.py --data data/shapes                     # the embedded toy, drawn scenes
python tools/rank_heads.py CONFIG --loader val --limit 500        # any data set of a config

The best ones serve tools/explain.py --heads FILE. No trained head is needed. Choose them on
pictures other than those that are explained or measured afterwards.
"""

import argparse
import os

from flmm.command_line import run_tool

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", default="tiny", help="default: the embedded toy model")
    parser.add_argument("--data", help="folder of the data set (the config's data_root)")
    parser.add_argument("--loader", choices=["val", "test"], default="val", help="whose data set")
    parser.add_argument("--split", help="of the data set; default: the config's")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument(
        "--measure", choices=["inside_share", "hit_rate"], default="inside_share", help="to rank by"
    )
    parser.add_argument("--top", type=int, default=20, help="rows of the table (default 20)")
    parser.add_argument("--device", help="for example cuda:0; default: a GPU if there is one")
    parser.add_argument("--out", default="outputs/heads.json", help="JSON (all heads)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Build reader and data set, rank, print, save."""
    from flmm.apps.explanation.head_ranking import build_reader, load_samples, rank_heads
    from flmm.config import load_config

    config = load_config(args.config, {"data_root": args.data} if args.data else None)
    print(f"reader: {config.reader}; its own heads are ranked, no trained head is used")
    samples = load_samples(config, args.loader, args.split, args.limit)
    ranking = rank_heads(build_reader(config, args.device), samples, args.measure)
    print(ranking.format_table(args.top))
    print(
        f"{ranking.phrases} phrases, {ranking.skipped} skipped; saved {ranking.save_json(args.out)}"
    )


if __name__ == "__main__":
    run_tool(main, parse_args())
