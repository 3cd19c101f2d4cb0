"""Synthetic scenes as a folder that any RefCOCO reader and any PNG reader opens.

``images/*.png``; ``instances.json`` and ``refs(unc).p`` with train, val, testA and testB; per split
captions (``png_<split>.json``) with COCO's panoptic files (``panoptic_<split>.json``,
``panoptic_<split>/*.png``). With gRefCOCO's and ReasonSeg's folders beside, a template for data of
one's own.
"""

from __future__ import annotations

import itertools
import json
import pickle
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from flmm.data.masks import encode_segment_ids
from flmm.data.refer_files import load_refs
from flmm.rle import encode_mask, read_runs
from flmm.toy.shape_captions import (
    CATEGORIES,
    SHAPE_CATEGORIES,
    build_narrative,
    build_segments,
    write_caption,
)
from flmm.toy.shape_layouts import draw_expressions, write_grefs, write_reasoning
from flmm.toy.shape_sentences import pick_sentences
from flmm.toy.shapes import (
    MAX_OBJECTS,
    SHAPES,
    compute_box_xywh,
    draw_in_processes,
    render_scene,
)

# Fraction of refs per split of ``refs(unc).p``; the rest is train.
SPLIT_FRACTIONS = {"val": 0.05, "testA": 0.05, "testB": 0.05}


def write_dataset(
    folder: str | Path, num_images: int, seed: int, workers: int = 1, min_objects: int = 1
) -> dict[str, int]:
    """Write scenes, their refs and their captions; the number of refs per split.

    The same arguments give the same bytes, whatever ``workers`` (processes) is; scenes of two seeds
    have nothing in common. Every image belongs to one split and has ``min_objects`` to
    ``MAX_OBJECTS`` objects. Masks are polygons where those rasterise to the exact pixels, else RLE.
    A folder that holds a dataset already is refused.
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
    records = draw_in_processes(_write_image, jobs, workers, "image")
    for split in sorted({record["split"] for record in records}):
        _write_captions(folder, split, [item for item in records if item["split"] == split])
    refs, instances = _write_refs(folder, records)
    write_grefs(folder, records, instances)
    counts = Counter(ref["split"] for ref in refs)
    return {split: counts[split] for split in ("train", *SPLIT_FRACTIONS)}


def compute_floor(folder: str | Path) -> dict[str, tuple[float, float]]:
    """What marking every object of a picture scores, whatever the sentence says.

    A reader that listens must be far above it. Visible masks do not overlap, so areas tell it.

    Returns:
        (cIoU, mIoU) in [0, 1] per split of a folder of :func:`write_dataset`, over all sentences.
    """
    annotations = json.loads((Path(folder) / "instances.json").read_text())["annotations"]
    area = {item["id"]: item["area"] for item in annotations}
    marked: dict[int, int] = {}
    for item in annotations:
        marked[item["image_id"]] = marked.get(item["image_id"], 0) + item["area"]
    pairs: dict[str, list[tuple[int, int]]] = {}
    for ref in load_refs(Path(folder) / "refs(unc).p"):
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
    return {"size": list(mask.shape), "counts": read_runs(encode_mask(mask)).tolist()}


def _write_image(job: tuple[Path, int, int, int, int]) -> dict[str, Any]:
    """Draw and save one image; what the data set's files have of it."""
    folder, index, num_images, seed, min_objects = job
    rng = random.Random(f"flmm shapes {seed} {index}")
    scene = render_scene(rng, min_objects)
    name = f"shapes_{seed}_{index:06d}.png"
    Image.fromarray(scene.image).save(folder / "images" / name)
    objects = [
        {
            "segmentation": encode_segmentation(item.mask),
            "area": int(item.mask.sum()),
            "bbox": compute_box_xywh(item.mask),
            "category_id": SHAPES.index(item.shape) + 1,
            "sentences": pick_sentences(rng, scene, item, rng.randint(2, 4)),
        }
        for item in scene.objects
    ]
    split = _pick_split(index, num_images)
    pixels, segments = build_segments(scene)
    (folder / f"panoptic_{split}").mkdir(exist_ok=True)
    encode_segment_ids(pixels).save(folder / f"panoptic_{split}" / name)
    # Sources of their own: the refs are the same whatever else is drawn.
    caption = write_caption(random.Random(f"flmm captions {seed} {index}"), scene)
    expressions = draw_expressions(random.Random(f"flmm expressions {seed} {index}"), scene)
    reasons = random.Random(f"flmm reasoning {seed} {index}")
    write_reasoning(reasons, scene, folder, Path(name).stem, split, index)
    image_id, (height, width) = index + 1, scene.image_size
    return {
        "image": {"id": image_id, "file_name": name, "height": height, "width": width},
        "split": split,
        "objects": objects,
        "expressions": expressions,
        "narrative": {"image_id": str(image_id), **build_narrative(caption)},
        "panoptic": {"image_id": image_id, "file_name": name, "segments_info": segments},
    }


def _write_captions(folder: Path, split: str, records: list[dict[str, Any]]) -> None:
    """``png_<split>.json`` and ``panoptic_<split>.json``."""
    narratives, images, annotations = (
        [item[key] for item in records] for key in ("narrative", "image", "panoptic")
    )
    panoptic = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / f"png_{split}.json").write_text(json.dumps(narratives))
    (folder / f"panoptic_{split}.json").write_text(json.dumps(panoptic))


def _pick_split(index: int, num_images: int) -> str:
    """Splits by image, in blocks from the end, each at least one image when there are four."""
    left = num_images
    for split, fraction in reversed(SPLIT_FRACTIONS.items()):
        left -= max(1, round(fraction * num_images)) if num_images >= 4 else 0
        if index >= left:
            return split
    return "train"


def _write_refs(
    folder: Path, records: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """``refs(unc).p`` and ``instances.json`` with consecutive ids, as in RefCOCO; what they hold.

    Each record learns the ``annotation_ids`` of its objects. Texts are interned: a pickle tells
    two equal texts from one that stands in two places.
    """
    annotations: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    sentence_ids = itertools.count()
    for record in records:
        image, record["annotation_ids"] = record["image"], []
        for item in record["objects"]:
            sentences = _build_sentences(item.pop("sentences"), sentence_ids)
            ids = {"id": len(annotations) + 1, "image_id": image["id"]}
            annotations.append({**ids, "iscrowd": 0, **item})
            record["annotation_ids"].append(ids["id"])
            if sentences:
                ref = {
                    "ref_id": len(refs),
                    "ann_id": ids["id"],
                    "image_id": image["id"],
                    "category_id": item["category_id"],
                    "file_name": image["file_name"],
                    "split": sys.intern(record["split"]),
                    "sentences": sentences,
                    "sent_ids": [entry["sent_id"] for entry in sentences],
                }
                refs.append(ref)
    images = [record["image"] for record in records]
    instances = {"images": images, "annotations": annotations, "categories": SHAPE_CATEGORIES}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return refs, instances


def _build_sentences(sentences: list[Any], sentence_ids: Iterator[int]) -> list[dict[str, Any]]:
    return [
        {
            "tokens": [sys.intern(word) for word in text.split()],
            "raw": text,
            "sent": text,
            "sent_id": next(sentence_ids),
            "kind": kind,
        }
        for kind, text in (map(sys.intern, sentence) for sentence in sentences)
    ]
