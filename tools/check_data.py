"""Check a data root before hours are spent: python tools/check_data.py DATA_ROOT.

Says of RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO, PNG and ReasonSeg which is complete and which file,
image or count is missing, opens a sample of the pictures (--full: all), and ends with one line:
ready (exit code 0), or what to do first (exit code 1). docs/data.md shows the folders.
"""

import argparse
import sys

from flmm.data.published import DATASETS, PNG, SPLIT_USES


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data_root", help="F-LMM's data/coco, or a folder with one data set in RefCOCO's layout"
    )
    parser.add_argument(
        "--datasets", nargs="+", choices=DATASETS, default=[], help="must be there (default: any)"
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=SPLIT_USES,
        default=list(SPLIT_USES),
        help="that a folder of your own must have (default: train val testA testB)",
    )
    parser.add_argument("--png", action="store_true", help="Panoptic Narrative Grounding must too")
    parser.add_argument("--full", action="store_true", help="open all pictures, decode all masks")
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    """Print the report of each data set and the line that decides; the exit code."""
    from mmengine.logging import MMLogger

    from flmm.data_checks.check_report import decide, format_report
    from flmm.data_checks.data_check import check_data_root

    MMLogger.get_current_instance().setLevel("ERROR")  # the reports tell it
    names = [*args.datasets, *([PNG] if args.png and PNG not in args.datasets else [])]
    reports = []
    for report in check_data_root(args.data_root, names, args.full, args.splits):
        print(format_report(report), flush=True)
        reports.append(report)
    ready, line = decide(reports, args.data_root)
    print(line)
    return 0 if ready else 1


if __name__ == "__main__":
    try:
        sys.exit(main(parse_args()))
    except (OSError, ValueError) as error:
        print(f"not ready: {error}")
        sys.exit(1)
