r"""Make the rule that tells whether a phrase's thing is in a picture at all, and judge it.

python tools/calibrate_presence.py tiny_several_shapes --loader test \
    --measure test_dataloader.dataset.seed=3              # drawn scenes, and others to measure on
python tools/calibrate_presence.py CONFIG --data FOLDER --measure data_root=OTHER
python tools/calibrate_presence.py CONFIG --strangers 2 --limit 500   # a set where none is absent

Phrases whose true mask is empty are absent; --strangers also asks phrases of other pictures. Only
the reader is needed. In a config, the rule is presence=dict(type="PresenceRule", rule=FILE) of the
model, with presence_threshold beside it where masks are to be empty.
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
    parser.add_argument("config", nargs="?", default="tiny", help="default: the embedded toy model")
    parser.add_argument("--data", help="folder of the data set (the config's data_root)")
    parser.add_argument("--loader", choices=["val", "test"], default="val", help="whose data set")
    parser.add_argument("--split", help="of the data set; default: the config's")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument(
        "--strangers", type=int, default=0, help="phrases of other pictures asked of each picture"
    )
    parser.add_argument(
        "--ask", action="store_true", help='also ask the reader "Is there ...?" (language head)'
    )
    parser.add_argument(
        "--features", nargs="+", help="what the rule looks at; default: all, see the table"
    )
    parser.add_argument("--device", help="for example cuda:0; default: a GPU if there is one")
    parser.add_argument("--out", default="outputs/presence.json", help="the rule, a JSON")
    parser.add_argument("--plot", help="write a reliability diagram, for example reliability.png")
    add_override_argument(parser)
    add_override_argument(
        parser, "--measure", "overrides that lead to other pictures, to measure on (default: none)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Read, fit, print, save."""
    from flmm.config import load_config
    from flmm.evaluation.presence_calibration import calibrate, collect_examples
    from flmm.head_selection import build_reader, load_samples

    options = {**(args.cfg_options or {}), **({"data_root": args.data} if args.data else {})}
    config = load_config(args.config, options)
    reader = build_reader(config, args.device)
    sets = []
    for own in [options] + ([options | args.measure] if args.measure else []):
        samples = load_samples(load_config(args.config, own), args.loader, args.split, args.limit)
        sets.append(collect_examples(reader, samples, args.strangers, args.ask))
    made = calibrate(reader, *sets, names=args.features, source=describe_source(args))
    print(made.format_table())
    print(f"saved {made.weights.save_json(args.out)}")
    if args.plot:
        print(f"saved {made.save_plot(args.plot)}")


def describe_source(args: argparse.Namespace) -> str:
    """What the rule was made from, in words."""
    return f"{args.loader} data of {args.config}" + (f" in {args.data}" if args.data else "")


if __name__ == "__main__":
    run_tool(main, parse_args())
