"""Synthetic scenes as a folder that any RefCOCO reader and any PNG reader opens.

In: a number of images and a seed. Out: ``images/*.png``; ``instances.json`` and ``refs(unc).p``
with train, val, testA and testB; per split captions (``png_<split>.json``) with COCO's panoptic
files (``panoptic_<split>.json``, ``panoptic_<split>/*.png``). A template for data of one's own.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from flmm.data.panoptic import encode_segment_ids
from flmm.data.refer_files import load_refs
from flmm.toy.shape_captions import (
    CATEGORIES,
    build_narrative,
    build_segments,
    write_caption,
)
from flmm.toy.shape_sentences import Sentence, pick_sentences
from flmm.toy.shapes import MAX_OBJECTS, SHAPES, render_scene

# Fraction of refs per split of ``refs(unc).p``; the rest is train.
SPLIT_FRACTIONS = {"val": 0.05, "testA": 0.05, "testB": 0.05}


def write_dataset(
    folder: str | Path, num_images: int, seed: int, workers: int = 1, min_objects: int = 1
) -> dict[str, int]:
    """Write scenes, their refs and their captions.

    The same arguments give the same bytes, whatever ``workers`` is. Every image belongs to one
    split. Masks are stored as polygons where those rasterise to the exact pixels, else as RLE.

    Args:
        folder: made if missing; must not hold an ``instances.json`` already.
        num_images: number of scenes; at least 1.
        seed: scenes of two seeds have nothing in common.
        workers: processes that draw.
        min_objects: objects of a scene, at least; 1 to ``MAX_OBJECTS``.

    Returns:
        number of refs per split.

    Raises:
        ValueError: ``num_images`` is below 1, or ``min_objects`` out of its range.
        FileExistsError: ``folder`` already holds a dataset.
    """
    folder = Path(folder)
    if num_images < 1:
        raise ValueError(f"--images is {num_images}: give at least 1")
    if not 1 <= min_objects <= MAX_OBJECTS:
        raise ValueError(f"--min-objects is {min_objects}: give 1 to {MAX_OBJECTS}")
    if (folder / "instances.json").exists():
        raise FileExistsError(
            f"{folder} already holds a dataset: name an empty folder or delete it"
        )
    (folder / "images").mkdir(parents=True, exist_ok=True)
    jobs = [(folder, index, num_images, seed, min_objects) for index in range(num_images)]
    with ExitStack() as stack:
        written: Iterable[dict[str, Any]] = map(_write_image, jobs)
        if workers > 1:
            pool = stack.enter_context(ProcessPoolExecutor(workers))
            written = pool.map(_write_image, jobs, chunksize=16)
        shown = tqdm(written, total=num_images, desc="scenes", unit="image", disable=None)
        records = list(shown)
    _write_captions(folder, records)
    instances, refs = _number_records(records)
    (folder / "instances.json").write_text(json.dumps(instances))
    with open(folder / "refs(unc).p", "wb") as file:
        pickle.dump(refs, file, protocol=2)
    counts = dict.fromkeys(("train", *SPLIT_FRACTIONS), 0)
    for ref in refs:
        counts[ref["split"]] += 1
    return counts


def compute_floor(folder: str | Path) -> dict[str, tuple[float, float]]:
    """What marking every object of a picture scores, whatever the sentence says.

    A reader that listens must be far above it.

    Args:
        folder: as :func:`write_dataset` wrote it.

    Returns:
        (cIoU, mIoU) in [0, 1] per split, over all sentences. Visible masks do not overlap, so
        areas tell both.
    """
    annotations = json.loads((Path(folder) / "instances.json").read_text())["annotations"]
    area = {item["id"]: item["area"] for item in annotations}
    marked: dict[int, int] = {}
    for item in annotations:
        marked[item["image_id"]] = marked.get(item["image_id"], 0) + item["area"]
    pairs: dict[str, list[tuple[int, int]]] = {}
    for ref in load_refs(str(Path(folder) / "refs(unc).p")):
        pair = area[ref["ann_id"]], marked[ref["image_id"]]
        pairs.setdefault(ref["split"], []).extend([pair] * len(ref["sentences"]))
    floors = {}
    for split, rows in pairs.items():
        true, union = np.array(rows, float).T
        floors[split] = (float(true.sum() / union.sum()), float((true / union).mean()))
    return floors


def encode_segmentation(mask: np.ndarray) -> list[list[float]] | dict[str, Any]:
    """COCO segmentation of a bool mask ``[H, W]``: exact polygons, else uncompressed RLE."""
    # At twice the size a contour tells left from right edges, so polygons can run along pixel
    # edges, which pycocotools rasterises exactly. COCO polygons cannot have holes.
    twice = mask.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    contours, hierarchy = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if contours and (hierarchy[0, :, 3] < 0).all():
        polygons = [
            ((c.reshape(-1, 2) + 1) // 2).astype(float).flatten().tolist() for c in contours
        ]
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape))
        if np.array_equal(coco_mask.decode(rle).astype(bool), mask):
            return polygons
    return {"size": list(mask.shape), "counts": _count_runs(mask)}


def _count_runs(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, first of zeros, as COCO's uncompressed RLE wants them."""
    flat = np.concatenate([[False], mask.flatten(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def _write_image(job: tuple[Path, int, int, int, int]) -> dict[str, Any]:
    """Draw and save one image; its record is numbered later."""
    folder, index, num_images, seed, min_objects = job
    rng = random.Random(f"flmm shapes {seed} {index}")
    scene = render_scene(rng, min_objects)
    name = f"shapes_{seed}_{index:06d}.png"
    Image.fromarray(scene.image).save(folder / "images" / name)
    objects = []
    for item in scene.objects:
        ys, xs = np.where(item.mask)
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        objects.append(
            {
                "segmentation": encode_segmentation(item.mask),
                "area": int(item.mask.sum()),
                "bbox": box,
                "category_id": SHAPES.index(item.shape) + 1,
                "sentences": pick_sentences(rng, scene, item, rng.randint(2, 4)),
            }
        )
    split = _pick_split(index, num_images)
    pixels, segments = build_segments(scene)
    (folder / f"panoptic_{split}").mkdir(exist_ok=True)
    encode_segment_ids(pixels).save(folder / f"panoptic_{split}" / name)
    # A source of its own: the refs are the same with and without captions.
    caption = write_caption(random.Random(f"flmm captions {seed} {index}"), scene)
    return {
        "name": name,
        "size": scene.image_size,
        "split": split,
        "objects": objects,
        "narrative": build_narrative(caption),
        "segments_info": segments,
    }


def _write_captions(folder: Path, records: list[dict[str, Any]]) -> None:
    """``png_<split>.json`` and ``panoptic_<split>.json`` of every split that has images."""
    for split in sorted({record["split"] for record in records}):
        narratives, images, annotations = [], [], []
        for image_id, record in enumerate(records, start=1):
            if record["split"] != split:
                continue
            narratives.append({"image_id": str(image_id), **record["narrative"]})
            images.append(_build_image(image_id, record))
            annotations.append(
                {
                    "image_id": image_id,
                    "file_name": record["name"],
                    "segments_info": record["segments_info"],
                }
            )
        panoptic = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (folder / f"png_{split}.json").write_text(json.dumps(narratives))
        (folder / f"panoptic_{split}.json").write_text(json.dumps(panoptic))


def _build_image(image_id: int, record: dict[str, Any]) -> dict[str, Any]:
    height, width = record["size"]
    return {"id": image_id, "file_name": record["name"], "height": height, "width": width}


def _pick_split(index: int, num_images: int) -> str:
    """Splits by image, in blocks from the end, each at least one image when there are four."""
    left = num_images
    for split, fraction in reversed(SPLIT_FRACTIONS.items()):
        size = max(1, round(fraction * num_images)) if num_images >= 4 else 0
        left -= size
        if index >= left:
            return split
    return "train"


def _number_records(records: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """``instances.json`` and ``refs(unc).p`` with consecutive ids, as RefCOCO has them."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    sentence_ids = _count_up()
    for image_id, record in enumerate(records, start=1):
        images.append(_build_image(image_id, record))
        for item in record["objects"]:
            sentences = item.pop("sentences")
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0, **item}
            annotations.append(annotation)
            if sentences:
                refs.append(_build_ref(len(refs), annotation, record, sentences, sentence_ids))
    categories = [
        {"id": index, "name": shape, "supercategory": "shape"}
        for index, shape in enumerate(SHAPES, start=1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, refs


def _build_ref(
    ref_id: int,
    annotation: dict[str, Any],
    record: dict[str, Any],
    sentences: list[Sentence],
    sentence_ids: Iterator[int],
) -> dict[str, Any]:
    entries = [
        {
            "tokens": sentence.text.split(),
            "raw": sentence.text,
            "sent": sentence.text,
            "sent_id": next(sentence_ids),
            "kind": sentence.kind,
        }
        for sentence in sentences
    ]
    return {
        "ref_id": ref_id,
        "ann_id": annotation["id"],
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "file_name": record["name"],
        "split": record["split"],
        "sentences": entries,
        "sent_ids": [entry["sent_id"] for entry in entries],
    }


def _count_up() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1
