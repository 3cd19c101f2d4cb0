"""Write synthetic scenes in the published layouts.

RefCOCO's: images, instances.json and refs(unc).p. Panoptic Narrative Grounding's, per split:
png_SPLIT.json, panoptic_SPLIT.json and the folder panoptic_SPLIT. gRefCOCO's, with expressions of
no target and of several: grefcoco/grefs(unc).json and instances.json. ReasonSeg's:
reason_seg/ReasonSeg/{train,val,test}.

Example: python tools/make_shapes.py data/shapes --images 4000 --seed 0
"""

import argparse
import os


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="where to write; made if missing")
    parser.add_argument("--images", type=int, default=4000, help="number of scenes (default 4000)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same scenes (default 0)")
    parser.add_argument(
        "--min-objects", type=int, default=1, help="objects of a scene, 1 to 6 (default 1)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that draw")
    return parser.parse_args()


def main() -> None:
    """Write the scenes and say how many refs each split has."""
    args = parse_args()
    from flmm.toy.shape_files import compute_floor, write_dataset

    try:
        counts = write_dataset(args.folder, args.images, args.seed, args.workers, args.min_objects)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{args.images} images in {args.folder}; refs per split: {counts}")
    for split, (ciou, miou) in compute_floor(args.folder).items():
        print(f"{split}: marking every object scores cIoU {ciou:.1%}, mIoU {miou:.1%}")


if __name__ == "__main__":
    main()
