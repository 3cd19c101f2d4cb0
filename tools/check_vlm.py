"""Check a vision-language model before using it: python tools/check_vlm.py FOLDER_OR_ID."""

import argparse
import sys


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="FOLDER_OR_ID", help="model folder or hub id")
    parser.add_argument("--device", help="default: cuda if there is one")
    parser.add_argument("--dtype", help="default: bfloat16 on cuda, float32 elsewhere")
    parser.add_argument("--image", help="picture or address to try; default: a drawn one")
    parser.add_argument("--json", metavar="OUT", help="where the report goes")
    parser.add_argument(
        "--random-init", action="store_true", help="random weights: check the architecture only"
    )
    return parser.parse_args()


if __name__ == "__main__":
    args = parse_args()
    from flmm.readers.check import run_check

    sys.exit(run_check(args.name, args.device, args.dtype, args.image, args.json, args.random_init))
