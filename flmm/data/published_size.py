"""A made-up data set with the layout, fields and size of the published RefCOCO, without pictures.

Data in: a folder and a seed. Data out: ``refcoco/instances.json`` and ``refcoco/refs(unc).p``, to
measure loading where the real files cannot be had. Objects are random rings of points: nothing can
be learned from them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from flmm.data.published import REFER_DATASETS

# Images of each split and annotations of all images; refs and sentences are in REFER_DATASETS.
SPLIT_IMAGES = {"train": 16994, "val": 1500, "testA": 750, "testB": 750}
ANNOTATIONS = 196771
_CATEGORIES = 80
_IMAGE_SIZES = ((480, 640), (427, 640), (640, 480), (640, 427), (500, 375))  # (h, w), COCO's usual
_WORDS = (
    "left right front back middle top bottom woman man guy girl boy person dog cat horse pizza "
    "chair car bus umbrella red blue white black green shirt hat jacket standing sitting holding "
    "closest to with the in on of near and far corner second third from"
)


def write_published_size(folder: str | Path, seed: int = 0, scale: float = 1.0) -> dict[str, int]:
    """Write the two files; the same arguments give the same bytes.

    Args:
        folder: a data root; ``refcoco`` is made in it and must not be there.
        seed: of all draws.
        scale: part of the published size, in (0, 1].

    Returns:
        how many images, annotations, refs and sentences were written.

    Raises:
        FileExistsError: ``folder`` already has a ``refcoco``.
    """
    rng = np.random.default_rng(seed)
    files = REFER_DATASETS["refcoco"]
    ann_file, split_file = Path(folder) / files.ann_file, Path(folder) / files.split_file
    if ann_file.parent.exists():
        raise FileExistsError(f"{ann_file.parent} is already there: name another folder")
    ann_file.parent.mkdir(parents=True)
    images = [split for split, count in SPLIT_IMAGES.items() for _ in range(_part(count, scale))]
    plan = _plan_images(rng, images, scale)
    refs: list[dict[str, Any]] = []
    with open(ann_file, "w", encoding="utf-8") as file:
        annotations = _write_instances(file, rng, plan, refs)
    split_file.write_bytes(pickle.dumps(refs, protocol=2))
    return {
        "images": len(images),
        "annotations": annotations,
        "refs": len(refs),
        "sentences": sum(len(ref["sentences"]) for ref in refs),
    }


def _part(count: int, scale: float) -> int:
    return max(1, round(count * scale))


def _spread(rng: np.random.Generator, total: int, places: int) -> np.ndarray:
    """``total`` things over ``places``, at least one in each."""
    total = max(total, places)
    return 1 + rng.multinomial(total - places, np.full(places, 1 / places))


def _plan_images(
    rng: np.random.Generator, images: list[str], scale: float
) -> list[tuple[str, list[int], int]]:
    """Per image: split, number of sentences of each of its refs, number of annotations."""
    sentences: list[list[int]] = []
    for split, published in REFER_DATASETS["refcoco"].splits.items():
        refs = _spread(rng, _part(published.refs or 0, scale), images.count(split))
        lengths = _spread(rng, _part(published.sentences or 0, scale), int(refs.sum())).tolist()
        ends = np.cumsum(refs)
        sentences += [lengths[end - count : end] for count, end in zip(refs, ends)]
    total_refs = sum(map(len, sentences))
    others = rng.multinomial(
        max(_part(ANNOTATIONS, scale) - total_refs, 0), np.full(len(images), 1 / len(images))
    )
    plan = [(s, r, len(r) + int(o)) for s, r, o in zip(images, sentences, others)]
    return [plan[index] for index in rng.permutation(len(plan))]


def _write_instances(
    file: TextIO,
    rng: np.random.Generator,
    plan: list[tuple[str, list[int], int]],
    refs: list[dict[str, Any]],
) -> int:
    """Write ``instances.json`` piece by piece and collect the refs; the number of annotations."""
    head = {
        "info": {"description": "made up, of the published RefCOCO's size", "year": 2014},
        "licenses": [{"id": 1, "name": "none", "url": "http://example.org"}],
        "categories": [
            {"supercategory": "thing", "id": index, "name": f"thing {index}"}
            for index in range(1, _CATEGORIES + 1)
        ],
    }
    image_ids = np.sort(rng.choice(np.arange(1, 600000), len(plan), replace=False)).tolist()
    sizes = [_IMAGE_SIZES[index] for index in rng.integers(len(_IMAGE_SIZES), size=len(plan))]
    file.write(json.dumps(head)[:-1] + ', "images": [')
    _write_list(file, (_build_image(*pair) for pair in zip(image_ids, sizes)))
    file.write('], "annotations": [')
    sentence_id, count = 0, 0

    def list_annotations() -> Iterator[dict[str, Any]]:
        nonlocal sentence_id, count
        for image_id, size, (split, lengths, number) in zip(image_ids, sizes, plan):
            for index in range(number):
                count += 1
                annotation = _build_annotation(rng, count, image_id, size)
                if index < len(lengths):
                    ref = _build_ref(rng, len(refs), annotation, split)
                    ref["sentences"] = _draw_sentences(rng, sentence_id, lengths[index])
                    ref["sent_ids"] = [item["sent_id"] for item in ref["sentences"]]
                    sentence_id += lengths[index]
                    refs.append(ref)
                yield annotation

    _write_list(file, list_annotations())
    file.write("]}")
    return count


def _write_list(file: TextIO, records: Iterator[dict[str, Any]]) -> None:
    for index, record in enumerate(records):
        file.write((", " if index else "") + json.dumps(record))


def _build_image(image_id: int, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "license": 1,
        "file_name": f"COCO_train2014_{image_id:012d}.jpg",
        "coco_url": f"http://example.org/images/{image_id}",
        "height": size[0],
        "width": size[1],
        "date_captured": "2013-11-21 23:06:41",
        "flickr_url": f"http://example.org/{image_id}_z.jpg",
        "id": image_id,
    }


def _build_annotation(
    rng: np.random.Generator, annotation_id: int, image_id: int, size: tuple[int, int]
) -> dict[str, Any]:
    """A ring of points, some 25 on average, two decimals as in COCO; every eighth has two rings."""
    polygons = [_draw_ring(rng, size) for _ in range(1 + (annotation_id % 8 == 0))]
    points = np.concatenate([np.reshape(ring, (-1, 2)) for ring in polygons])
    low, high = points.min(0), points.max(0)
    width, height = (high - low).round(2).tolist()
    return {
        "segmentation": polygons,
        "area": round(width * height * 0.7, 4),
        "iscrowd": 0,
        "image_id": image_id,
        "bbox": [*low.tolist(), width, height],
        "category_id": int(rng.integers(1, _CATEGORIES + 1)),
        "id": annotation_id,
    }


def _draw_ring(rng: np.random.Generator, size: tuple[int, int]) -> list[float]:
    """Points ``[x0, y0, x1, y1, ...]`` of one outline, px, within the picture."""
    count = int(np.clip(rng.lognormal(3.0, 0.6), 4, 150))
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = rng.uniform(12, 110) * rng.uniform(0.7, 1.0, count)
    center = rng.uniform(0.15, 0.85, 2) * (size[1], size[0])
    points = center + radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    return np.clip(points, 0, (size[1], size[0])).round(2).flatten().tolist()


def _build_ref(
    rng: np.random.Generator, ref_id: int, annotation: dict[str, Any], split: str
) -> dict[str, Any]:
    image_id, annotation_id = annotation["image_id"], annotation["id"]
    return {
        "file_name": f"COCO_train2014_{image_id:012d}_{annotation_id}.jpg",
        "ann_id": annotation_id,
        "ref_id": ref_id,
        "image_id": image_id,
        "split": split,
        "category_id": annotation["category_id"],
    }


def _draw_sentences(rng: np.random.Generator, first_id: int, count: int) -> list[dict[str, Any]]:
    words, sentences = _WORDS.split(), []
    for sentence_id in range(first_id, first_id + count):
        raw = " ".join(rng.choice(words, 1 + rng.poisson(2.6)))
        # Tokens are strings of their own, as in the published file.
        sentences.append({"tokens": raw.split(), "raw": raw, "sent_id": sentence_id, "sent": raw})
    return sentences


__all__ = ["ANNOTATIONS", "SPLIT_IMAGES", "write_published_size"]
