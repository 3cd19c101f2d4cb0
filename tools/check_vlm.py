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
    parser.add_argument(
        "--small",
        action="store_true",
        help="dry run without a download: of a published size or its hub id, few narrow layers "
        "with random weights and a stand-in for its processor",
    )
    return parser.parse_args()


if __name__ == "__main__":
    args = parse_args()
    from flmm.readers.check import run_check

    names = ("name", "device", "dtype", "image", "json", "random_init", "small")
    sys.exit(run_check(*(getattr(args, name) for name in names)))
