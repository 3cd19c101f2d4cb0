"""Make the embedded tiny model, stage by stage; docs/tiny_model.md tells the whole story.

python tools/make_tiny_model.py scenes   WORK/scenes --scenes 30000
python tools/make_tiny_model.py vision   WORK/vision --scenes WORK/scenes --steps 900
python tools/make_tiny_model.py language WORK/reader --scenes WORK/scenes --start WORK/vision
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
    parser.add_argument(
        "stage", choices=["scenes", "vision", "language", "refiner", "embed", "head"]
    )
    parser.add_argument("out", type=Path, help="folder or file to write")
    parser.add_argument("--scenes", help="number of scenes to render, or the folder of scenes")
    parser.add_argument("--start", type=Path, help="folder or checkpoint of the stage before")
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that draw")
    return parser.parse_args()


def main() -> None:
    """Run one stage."""
    args = parse_args()
    import torch

    torch.set_num_threads(args.workers)
    if args.stage == "scenes":
        from flmm.toy.scene_pool import build_pool

        build_pool(args.out, int(args.scenes or 30000), args.seed, args.workers)
    elif args.stage == "vision":
        from flmm.toy.reader_training import train_vision

        train_vision(Path(args.scenes), args.out, args.steps or 900, args.seed, start=args.start)
    elif args.stage == "language":
        from flmm.toy.reader_training import train_language

        train_language(Path(args.scenes), args.start, args.out, args.steps or 3600, args.seed)
    elif args.stage == "refiner":
        from flmm.toy.refiner_training import train_refiner

        train_refiner(
            args.out, args.steps or 1800, int(args.scenes or 6000), args.seed, args.workers
        )
    elif args.stage == "embed":
        from flmm.toy.embedding import embed_reader

        embed_reader(args.start, args.out)
    else:
        from flmm.toy.embedding import embed_head

        embed_head(args.start, args.out)


if __name__ == "__main__":
    main()
