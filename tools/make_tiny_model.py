"""Make the embedded tiny model, stage by stage; docs/tiny_model.md tells the whole story.

python tools/make_tiny_model.py vision   WORK/vision --scenes 30000 --steps 900
python tools/make_tiny_model.py language WORK/reader --scenes 30000 --start WORK/vision
python tools/make_tiny_model.py refiner  WORK/tiny_sam.safetensors
python tools/make_tiny_model.py embed    flmm/assets/tiny_vlm --start WORK/reader
"""

import argparse
import os
from pathlib import Path


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["vision", "language", "refiner", "embed"])
    parser.add_argument("out", type=Path, help="folder or file to write")
    parser.add_argument("--scenes", type=int, help="how many to draw before the training")
    parser.add_argument("--start", type=Path, help="folder of the stage before")
    parser.add_argument(
        "--family",
        default="qwen2_5_vl",
        choices=["qwen2_5_vl", "llava", "qwen_vl"],
        help="without --start",
    )
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that draw")
    return parser.parse_args()


def main() -> None:
    """Run one stage."""
    args = parse_args()
    import torch

    torch.set_num_threads(args.workers)
    if args.stage == "vision":
        from flmm.toy.reader_training import train_vision

        numbers = (args.scenes or 30000, args.steps or 900, args.seed, args.workers)
        train_vision(args.start or args.family, args.out, *numbers)
    elif args.stage == "language":
        from flmm.toy.reader_training import train_language

        numbers = (args.scenes or 30000, args.steps or 3600, args.seed, args.workers)
        train_language(args.start, args.out, *numbers)
    elif args.stage == "refiner":
        from flmm.toy.refiner_training import train_refiner

        numbers = (args.scenes or 6000, args.steps or 1800, args.seed, args.workers)
        train_refiner(args.out, *numbers)
    else:
        from flmm.toy.reader_training import embed_reader

        embed_reader(args.start, args.out)


if __name__ == "__main__":
    main()
