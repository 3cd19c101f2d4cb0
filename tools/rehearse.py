"""A whole experiment at full size with random weights: check, train, evaluate, export, demo.

python tools/rehearse.py                                          # 3B reader, SAM ViT-L, bfloat16
python tools/rehearse.py --reader LLaVA-1.5-7B --refiner sam2.1-hiera-l --device cuda
python tools/rehearse.py --layers 2 --refiner tiny                # a short version

Seconds and peak memory of each stage are printed and written. Nothing is downloaded; what is made
means nothing. It shows that everything runs on this machine before weights and data are there.
"""

import argparse
from pathlib import Path

from flmm.command_line import run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line; what is not given is not in it."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--reader", help="published size (default: Qwen2.5-VL-3B)")
    parser.add_argument("--refiner", help="sam-vit-l (default), sam2.1-hiera-l or tiny")
    parser.add_argument("--layers", type=int, help="of the reader, for a short version")
    parser.add_argument("--processor", help="folder of the reader's own (default: one is made)")
    parser.add_argument("--steps", type=int, help="of the training (default 2)")
    parser.add_argument("--device", help="cpu (default) or cuda")
    parser.add_argument("--dtype", help="of the reader (default: bfloat16)")
    parser.add_argument("--out", help="folder of everything (default: outputs/rehearsal)")
    parser.add_argument(
        "--debug", action="store_true", default=False, help="show the traceback of an error"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Rehearse."""
    from flmm.benchmarks.rehearsal import RehearsalSettings, rehearse

    values = {key: value for key, value in vars(args).items() if key != "debug"}
    rehearse(RehearsalSettings(**values), Path(__file__).parent)


if __name__ == "__main__":
    run_tool(main, parse_args())
