"""Whether maps over a resampler's patches are better than over its queries, on drawn truth.

python tools/make_tiny_model.py vision WORK/vision --family qwen_vl --scenes 1500 --steps 300
python tools/compare_resampler_maps.py WORK/vision --scenes 150
"""

import argparse
from pathlib import Path


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the stage vision, of the family qwen_vl")
    parser.add_argument("--scenes", type=int, default=300, help="in each of the three parts")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    args = parse_args()
    from flmm.tables import format_text, tabulate
    from flmm.toy.resampler_maps import compare_maps

    print(format_text(tabulate(compare_maps(args.folder, args.scenes, args.seed))))


if __name__ == "__main__":
    main()
