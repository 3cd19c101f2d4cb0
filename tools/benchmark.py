"""What pointing costs, as ratios of one run: python tools/benchmark.py [read refine ask ...].

read       F-LMM's way and ours against a bare SDPA prefill: time, its parts, memory, GPU
stop       pointing that stops at half and three quarters of the layers against a bare prefill
refine     30 masks refined on one image against 1
ask        a second question about an image against the first
converse   the third turn of a conversation against a fresh start; memory over 50 turns
evaluate   a split of 7 expressions per image, read once against one by one
cache      a training epoch from the feature cache against one without
precision  how far bfloat16 and float16 stray from float32
point      how many masks hit what their words name, for each phrase selector
many       memory and time of --expressions phrases on a picture of 12 megapixels
"""

import argparse

from flmm.command_line import run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line; what is not given is not in it."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "names", nargs="*", metavar="name", default=[], help="of those above (default: all)"
    )
    parser.add_argument("--model", help="published size, of flmm/assets/published_sizes/")
    parser.add_argument("--layers", type=int, help="of the language model (default: all)")
    parser.add_argument("--tokens", type=int, nargs="+")
    parser.add_argument("--expressions", type=int, nargs="+")
    parser.add_argument(
        "--every-pair", action="store_true", help="all sizes with all numbers (always on a GPU)"
    )
    parser.add_argument("--ways", nargs="+", help="of reading: floor, flmm, flmm joined, ours, ...")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--max-passes", type=int)
    parser.add_argument("--sam", help="refiner: tiny, vit_b, vit_l, vit_h")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--out", help="folder of the results")
    parser.add_argument(
        "--debug", action="store_true", default=False, help="show the traceback of an error"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Run the chosen benchmarks, or all."""
    from flmm.benchmarks import BENCHMARKS, BenchmarkSettings, run_benchmarks

    values = {key: value for key, value in vars(args).items() if key not in ("names", "debug")}
    run_benchmarks(args.names or list(BENCHMARKS), BenchmarkSettings(**values))


if __name__ == "__main__":
    run_tool(main, parse_args())
