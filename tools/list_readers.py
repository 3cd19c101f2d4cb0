"""Write docs/readers.md: every reader, what a picture becomes, how exact and how dear pointing is.

python tools/list_readers.py            # asks no hub; a minute on a CPU
"""

import argparse
from pathlib import Path

from flmm.command_line import run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="docs/readers.md", help="default: docs/readers.md")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Measure and write."""
    import torch

    from flmm.benchmarks.harness import describe_machine
    from flmm.readers.overview import write_page

    page = write_page(describe_machine(torch.device("cpu")))
    Path(args.out).write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    run_tool(main, parse_args())
