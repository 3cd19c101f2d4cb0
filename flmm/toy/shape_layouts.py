"""Synthetic scenes in gRefCOCO's and ReasonSeg's layouts: targets of none, one and several.

In: a scene. Out: ``grefcoco/grefs(unc).json`` with its own ``instances.json``, beside the pictures
that RefCOCO's layout has too; ``reason_seg/ReasonSeg/{train,val,test}/`` with a ``.jpg`` and a
``.json`` per picture.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from flmm.data.published import REASON_FOLDER
from flmm.data.refer_files import NO_TARGET
from flmm.toy.shape_sentences import (
    GroupSentence,
    list_absent_sentences,
    list_group_sentences,
    list_sentences,
    pick_kinds,
)
from flmm.toy.shapes import Scene

# Per scene, at most: sentences of several objects, and sentences of none.
_MOST_GROUPS, _MOST_ABSENT = 2, 2
_REASON_SPLITS = {"train": "train", "val": "val", "testA": "test", "testB": "test"}
_TRAIN_STEP = 10  # ReasonSeg's train split is small: one picture in so many
_LONG_QUERIES = (
    "If you were asked to point at {}, which part of this picture would you choose?",
    "Somebody wants to cut {} out of this picture; where is it to be cut?",
)


def draw_expressions(rng: random.Random, scene: Scene) -> list[GroupSentence]:
    """A sentence for each object that words tell apart, up to two of several, up to two of none.

    ``objects`` are places in the scene, none for what is absent.
    """
    drawn = []
    for index, item in enumerate(scene.objects):
        for kind, text in pick_kinds(rng, list_sentences(scene, item), 1):
            drawn.append(GroupSentence(kind, text, (index,)))
    drawn += pick_kinds(rng, list_group_sentences(scene), _MOST_GROUPS)
    for kind, text in pick_kinds(rng, list_absent_sentences(scene), _MOST_ABSENT):
        drawn.append(GroupSentence(kind, text, ()))
    return drawn


def write_grefs(folder: Path, records: list[dict[str, Any]], instances: dict[str, Any]) -> None:
    """``grefcoco/``: a ref per expression, whose ``ann_id`` is a list.

    ``records`` have ``image``, ``split``, ``annotation_ids`` and ``expressions``.
    """
    refs: list[dict[str, Any]] = []
    ids = itertools.count()
    for record in records:
        image = record["image"]
        for kind, text, objects in record["expressions"]:
            own = [record["annotation_ids"][index] for index in objects]
            number = next(ids)
            sentence = {"tokens": text.split(), "raw": text, "sent": text, "sent_id": number}
            refs.append(
                {
                    "ref_id": number,
                    "ann_id": own or [NO_TARGET],
                    "image_id": image["id"],
                    "file_name": image["file_name"],
                    "split": record["split"],
                    "no_target": not own,
                    "sentences": [{**sentence, "kind": kind}],
                    "sent_ids": [number],
                }
            )
    home = folder / "grefcoco"
    home.mkdir(exist_ok=True)
    (home / "grefs(unc).json").write_text(json.dumps(refs))
    (home / "instances.json").write_text(json.dumps(instances))


def write_reasoning(
    rng: random.Random, scene: Scene, folder: Path, name: str, split: str, index: int
) -> None:
    """One picture with its query and polygons, where it has a target that polygons can tell.

    Half of the queries are whole sentences. Another object is marked "ignore" now and then.
    """
    polygons = [list_polygons(item.mask) for item in scene.objects]
    targets = [
        item
        for item in draw_expressions(rng, scene)
        if item.objects and all(polygons[index] for index in item.objects)
    ]
    if not targets or (split == "train" and index % _TRAIN_STEP):
        return
    target = rng.choice(targets)
    same = [item.text for item in targets if item.objects == target.objects and item != target]
    is_sentence = rng.random() < 0.5
    texts = [target.text, *same]
    if is_sentence:
        named = target.text if target.text.startswith("the ") else f"the {target.text}"
        texts = [query.format(named) for query in rng.sample(_LONG_QUERIES, 2)]
    labels = dict.fromkeys(target.objects, "target")
    others = [i for i, own in enumerate(polygons) if own and i not in labels]
    if others and rng.random() < 0.3:
        labels[rng.choice(others)] = "ignore"
    shapes = [
        {"label": label, "shape_type": "polygon", "image_name": f"{name}.jpg", "points": points}
        for place, label in labels.items()
        for points in polygons[place]
    ]
    home = folder / REASON_FOLDER / _REASON_SPLITS[split]
    home.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(home / f"{name}.jpg", quality=95)
    content = {"text": texts, "is_sentence": is_sentence, "shapes": shapes}
    (home / f"{name}.json").write_text(json.dumps(content))


def list_polygons(mask: np.ndarray) -> list[list[list[float]]]:
    """Outlines ``[[x, y], ...]`` through the border pixels of a bool mask; none if it has holes."""
    contours, hierarchy = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    if (hierarchy[0, :, 3] >= 0).any():
        return []
    return [contour.reshape(-1, 2).tolist() for contour in contours]
