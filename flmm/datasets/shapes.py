"""Synthetic scenes in RefCOCO's own file layout.

Draws 1-6 coloured shapes on a plain, gradient or textured ground, knows each object's exact
visible mask, writes unambiguous referring sentences for it, and stores the whole as a folder
that any RefCOCO reader opens: ``images/``, ``instances.json``, ``refs(unc).p``. Data in: a
seed. Data out: scenes, or that folder. It trains nothing and reads no dataset.
"""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
SIZES = ("small", "big")
# Several tones per colour word, so that a word means a range and not one triple of numbers.
COLORS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((205, 40, 40), (255, 0, 0), (220, 20, 60), (180, 25, 25)),
    "green": ((40, 160, 60), (0, 128, 0), (0, 220, 0), (60, 180, 75)),
    "blue": ((45, 75, 205), (0, 0, 255), (30, 110, 220), (20, 40, 150)),
    "yellow": ((230, 210, 50), (255, 255, 0), (255, 225, 25), (240, 220, 90)),
    "orange": ((240, 130, 30), (255, 165, 0), (245, 130, 48), (255, 120, 0)),
    "purple": ((140, 50, 170), (128, 0, 128), (145, 30, 180), (110, 40, 200)),
    "white": ((240, 240, 240), (255, 255, 255), (225, 228, 230)),
    "black": ((25, 25, 25), (0, 0, 0), (40, 38, 42)),
}
# Fraction of refs per split of ``refs(unc).p``; the rest is train.
SPLIT_FRACTIONS = {"val": 0.05, "testA": 0.05, "testB": 0.05}

_RADIUS = {"small": (0.058, 0.100), "big": (0.135, 0.215)}  # of sqrt(H * W)
_MIN_CONTRAST = 105.0  # euclidean RGB distance between an object and the ground under it
_MIN_VISIBLE_AREA = 0.55  # of the whole shape's area, else the object is left out
_SIDE_PX = (200, 400)


class Sentence(NamedTuple):
    """A referring sentence and which attributes it uses."""

    kind: str
    text: str


@dataclass
class ShapeObject:
    """One drawn object.

    Attributes:
        shape, color, size: its words.
        center_xy: centre in pixels.
        radius: circumscribed radius in pixels.
        angle: rotation in radians.
        tone: RGB of its fill.
        stroke: width of its outline in pixels; 0 for none. The outline belongs to the mask.
        detail: shape-specific proportion (inner radius of star and ring, arm of a cross).
        mask: bool ``[H, W]``, its visible pixels.
    """

    shape: str
    color: str
    size: str
    center_xy: tuple[float, float]
    radius: float
    angle: float
    tone: tuple[int, int, int]
    stroke: int
    detail: float
    mask: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))

    def place(self, image_size: tuple[int, int]) -> tuple[str, str]:
        """(vertical, horizontal) third of the image that holds the centre, in words."""
        height, width = image_size
        column = min(2, int(3 * self.center_xy[0] / width))
        row = min(2, int(3 * self.center_xy[1] / height))
        return ("top", "middle", "bottom")[row], ("left", "center", "right")[column]


@dataclass
class Scene:
    """A picture (uint8 RGB ``[H, W, 3]``) and what is in it."""

    image: np.ndarray
    objects: list[ShapeObject]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.image.shape[0], self.image.shape[1]


class Sample(NamedTuple):
    """A picture (uint8 RGB ``[H, W, 3]``), phrases, and their true masks (bool ``[P, H, W]``)."""

    image: np.ndarray
    phrases: list[str]
    masks: np.ndarray


def render_scene(rng: random.Random, max_objects: int = 6) -> Scene:
    """Draw one scene: portrait, square or landscape, sides of 200 to 400 pixels.

    Args:
        rng: the only source of randomness.
        max_objects: 1 to ``max_objects`` are drawn; fewer where no free place is found.
    """
    height, width = _draw_image_size(rng)
    ground = _draw_ground(rng, height, width)
    objects: list[ShapeObject] = []
    wanted = rng.randint(1, max_objects)
    for _ in range(wanted):
        item = _place_object(rng, objects, ground)
        if item is not None:
            objects.append(item)
    if not objects:
        return render_scene(rng, max_objects)
    image = _paint(rng, ground, objects)
    visible = [item for item in objects if _is_visible(item)]
    if len(visible) < len(objects):  # a buried object would make its words ambiguous
        return render_scene(rng, max_objects)
    return Scene(image, objects)


def list_sentences(scene: Scene, target: ShapeObject) -> list[Sentence]:
    """Every unambiguous referring sentence of an object, without article.

    Kinds: ``shape``, ``color+shape``, ``size+shape``, ``size+color+shape``, ``place`` (an
    attribute phrase with left, right, top, bottom or a corner) and ``superlative``.
    """
    sentences = []
    for words in (("shape",), ("color", "shape"), ("size", "shape"), ("size", "color", "shape")):
        alike = [
            o for o in scene.objects if all(getattr(o, w) == getattr(target, w) for w in words)
        ]
        phrase = " ".join(getattr(target, word) for word in words)
        if len(alike) == 1:
            sentences.append(Sentence("+".join(words), phrase))
        others = [item for item in alike if item is not target]
        sentences += _list_place_sentences(scene, target, others, phrase)
        if others:
            sentences += _list_superlatives(scene, target, others, phrase)
    return sentences


def pick_sentences(
    rng: random.Random, scene: Scene, target: ShapeObject, count: int
) -> list[Sentence]:
    """Up to ``count`` different sentences of an object, kinds drawn evenly, articles varied."""
    by_kind: dict[str, list[Sentence]] = {}
    for sentence in list_sentences(scene, target):
        by_kind.setdefault(sentence.kind, []).append(sentence)
    kinds = sorted(by_kind)
    rng.shuffle(kinds)
    picked = []
    for kind in kinds[:count]:
        text = rng.choice(by_kind[kind]).text
        picked.append(Sentence(kind, f"the {text}" if rng.random() < 0.5 else text))
    return picked


def render_samples(count: int, seed: int) -> list[Sample]:
    """Pictures with one phrase per object and its true mask, for demonstrations.

    The kinds of phrases vary from object to object; the same arguments give the same samples.
    """
    samples = []
    for index in range(count):
        rng = random.Random(f"flmm sample {seed} {index}")
        scene = render_scene(rng)
        phrases, masks = [], []
        for item in scene.objects:
            for sentence in pick_sentences(rng, scene, item, 1):
                phrases.append(sentence.text)
                masks.append(item.mask)
        samples.append(Sample(scene.image, phrases, np.stack(masks)))
    return samples


def write_dataset(
    folder: str | Path, num_images: int, seed: int, workers: int = 1
) -> dict[str, int]:
    """Write scenes as ``images/*.png``, ``instances.json`` and ``refs(unc).p``.

    The same arguments give the same bytes, whatever ``workers`` is. Every image belongs to one
    split. Masks are stored as polygons where those rasterise to the exact pixels, else as RLE.

    Args:
        folder: made if missing; must not hold an ``instances.json`` already.
        num_images: number of scenes; at least 1.
        seed: scenes of two seeds have nothing in common.
        workers: processes that draw.

    Returns:
        number of refs per split.

    Raises:
        ValueError: ``num_images`` is below 1.
        FileExistsError: ``folder`` already holds a dataset.
    """
    folder = Path(folder)
    if num_images < 1:
        raise ValueError(f"--images is {num_images}: give at least 1")
    if (folder / "instances.json").exists():
        raise FileExistsError(
            f"{folder} already holds a dataset: name an empty folder or delete it"
        )
    (folder / "images").mkdir(parents=True, exist_ok=True)
    jobs = [(folder, index, num_images, seed) for index in range(num_images)]
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            records = list(pool.map(_write_image, jobs, chunksize=16))
    else:
        records = [_write_image(job) for job in jobs]
    instances, refs = _number_records(records)
    (folder / "instances.json").write_text(json.dumps(instances))
    with open(folder / "refs(unc).p", "wb") as file:
        pickle.dump(refs, file, protocol=2)
    counts = dict.fromkeys(("train", *SPLIT_FRACTIONS), 0)
    for ref in refs:
        counts[ref["split"]] += 1
    return counts


# --- drawing ---------------------------------------------------------------------------------


def _draw_image_size(rng: random.Random) -> tuple[int, int]:
    side = rng.uniform(*_SIDE_PX)
    ratio = rng.choice((1.0, rng.uniform(1.05, 1.8), 1 / rng.uniform(1.05, 1.8)))
    return round(side * math.sqrt(ratio)), round(side / math.sqrt(ratio))


def _draw_ground(rng: random.Random, height: int, width: int) -> np.ndarray:
    """Float RGB ``[H, W, 3]``: plain, gradient or texture, from black to white."""
    noise = np.random.default_rng(rng.getrandbits(32))
    level = rng.choice((rng.uniform(0, 255), rng.uniform(80, 180), 255.0, 0.0))
    tint = noise.uniform(-45, 45, 3) if rng.random() < 0.6 else np.zeros(3)
    ground = np.ones((height, width, 3), np.float32) * np.clip(level + tint, 0, 255)
    kind = rng.choice(("plain", "gradient", "texture"))
    if kind == "plain":
        return ground.astype(np.float32)
    coarse = noise.uniform(-40, 40, (2, 2, 3) if kind == "gradient" else (5, 6, 3))
    ground += cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    if kind == "texture":
        if rng.random() < 0.5:
            ground += _draw_stripes(rng, height, width)
        ground += noise.normal(0, rng.uniform(2, 11), (height, width, 1))
    return ground.astype(np.float32)


def _draw_stripes(rng: random.Random, height: int, width: int) -> np.ndarray:
    angle, period = rng.uniform(0, math.pi), rng.uniform(7, 30)
    rows, columns = np.mgrid[0:height, 0:width]
    phase = (columns * math.cos(angle) + rows * math.sin(angle)) * 2 * math.pi / period
    return (rng.uniform(4, 14) * np.sin(phase))[..., None].astype(np.float32)


def _place_object(
    rng: random.Random, objects: list[ShapeObject], ground: np.ndarray
) -> ShapeObject | None:
    """An object with words, tone and a free place; None where 40 tries find none."""
    height, width = ground.shape[:2]
    shape, color = _pick_words(rng, objects)
    size = rng.choice(SIZES)
    for _ in range(40):
        radius = rng.uniform(*_RADIUS[size]) * math.sqrt(height * width)
        x = rng.uniform(radius * 1.02, width - radius * 1.02)
        y = rng.uniform(radius * 1.02, height - radius * 1.02)
        tone = _pick_tone(rng, color)
        local = ground[int(y - radius / 2) : int(y + radius / 2) + 1]
        local = local[:, int(x - radius / 2) : int(x + radius / 2) + 1].reshape(-1, 3).mean(0)
        gap = rng.uniform(0.86, 1.1)  # below 1 the outlines may overlap a little
        clear = all(math.dist((x, y), o.center_xy) > gap * (radius + o.radius) for o in objects)
        if clear and np.linalg.norm(local - tone) > _MIN_CONTRAST:
            stroke = rng.choice((0, 0, 0, 1, 2, 3)) if radius > 12 else 0
            return ShapeObject(
                shape, color, size, (x, y), radius, _pick_angle(rng), tone, stroke, rng.random()
            )
    return None


def _pick_words(rng: random.Random, objects: list[ShapeObject]) -> tuple[str, str]:
    """Shape and colour; often shared with an earlier object, so that words must be read whole."""
    shape, color = rng.choice(SHAPES), rng.choice(list(COLORS))
    if objects and rng.random() < 0.5:
        other, share = rng.choice(objects), rng.random()
        if share < 0.7:
            color = other.color
        if share > 0.4:
            shape = other.shape
    return shape, color


def _pick_tone(rng: random.Random, color: str) -> tuple[int, int, int]:
    base = np.array(rng.choice(COLORS[color]), float) * rng.uniform(0.9, 1.08)
    red, green, blue = np.clip(base + [rng.uniform(-9, 9) for _ in range(3)], 0, 255).astype(int)
    return int(red), int(green), int(blue)


def _pick_angle(rng: random.Random) -> float:
    return math.radians(rng.choice((0.0, rng.uniform(-15, 15), rng.uniform(-30, 30))))


def _outline(item: ShapeObject) -> np.ndarray:
    """Corner points ``[N, 2]`` (x, y) in pixels of a straight-edged shape."""
    if item.shape == "square":
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.85
    elif item.shape == "triangle":
        turn = np.deg2rad([-90, 30, 150])
        points = np.stack([np.cos(turn), np.sin(turn)], 1) * 1.1
    elif item.shape == "star":
        turn = np.deg2rad(-90 + 36 * np.arange(10))
        reach = np.where(np.arange(10) % 2 == 0, 1.1, 0.40 + 0.12 * item.detail)
        points = np.stack([np.cos(turn), np.sin(turn)], 1) * reach[:, None]
    else:
        arm = 0.24 + 0.14 * item.detail
        corner = [[-arm, -1], [arm, -1], [arm, -arm], [1, -arm], [1, arm], [arm, arm]]
        points = np.array(corner + [[-x, -y] for x, y in corner])
    cos, sin = math.cos(item.angle), math.sin(item.angle)
    return points @ np.array([[cos, sin], [-sin, cos]]) * item.radius + np.array(item.center_xy)


def _fill(item: ShapeObject, height: int, width: int, shrink: float, line: int) -> np.ndarray:
    """Coverage ``[H, W]`` in [0, 1] of the shape, its outline moved inwards by ``shrink`` px."""
    canvas = np.zeros((height, width), np.uint8)
    center = tuple(round(v * 16) for v in item.center_xy)
    if item.shape in ("circle", "ring"):
        cv2.circle(canvas, center, max(1, round((item.radius - shrink) * 16)), 255, -1, line, 4)
        if item.shape == "ring":
            hole = item.radius * (0.46 + 0.2 * item.detail) + shrink
            cv2.circle(canvas, center, round(hole * 16), 0, -1, line, 4)
    else:
        points = [np.round(_outline(item) * 16).astype(np.int32)]
        cv2.fillPoly(canvas, points, 255, line, 4)
        if shrink > 0:
            cv2.polylines(canvas, points, True, 0, max(1, round(2 * shrink)), line, 4)
    return canvas.astype(np.float32) / 255


def _paint(rng: random.Random, ground: np.ndarray, objects: list[ShapeObject]) -> np.ndarray:
    """Paint the objects in order, set their visible masks, give uint8 RGB."""
    height, width = ground.shape[:2]
    line = rng.choice((cv2.LINE_8, cv2.LINE_AA))
    grain = rng.choice((0.0, 0.0, rng.uniform(1, 7)))
    noise = np.random.default_rng(rng.getrandbits(32))
    image, owner = ground.copy(), np.full((height, width), -1, np.int16)
    for index, item in enumerate(objects):
        whole = _fill(item, height, width, 0.0, line)
        fill = np.array(item.tone, np.float32)
        if item.stroke:
            inner = _fill(item, height, width, float(item.stroke), line)
            edge = np.clip(fill * rng.uniform(0.25, 0.75), 0, 255)
            color = inner[..., None] * fill + (1 - inner[..., None]) * edge
        else:
            color = np.broadcast_to(fill, image.shape)
        if grain:
            color = color + noise.normal(0, grain, (height, width, 1))
        image = whole[..., None] * color + (1 - whole[..., None]) * image
        owner[whole > 0.5] = index
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image.astype(np.float32), (3, 3), 0.6)
    for index, item in enumerate(objects):
        item.mask = owner == index
    return np.clip(image, 0, 255).astype(np.uint8)


def _is_visible(item: ShapeObject) -> bool:
    whole = _fill(item, item.mask.shape[0], item.mask.shape[1], 0.0, cv2.LINE_8) > 0.5
    return item.mask.sum() >= _MIN_VISIBLE_AREA * whole.sum()


# --- words -----------------------------------------------------------------------------------


def _relative_center(scene: Scene, item: ShapeObject) -> tuple[float, float]:
    height, width = scene.image_size
    return item.center_xy[0] / width, item.center_xy[1] / height


def _list_place_sentences(
    scene: Scene, target: ShapeObject, others: list[ShapeObject], phrase: str
) -> list[Sentence]:
    """The phrase with a side or a corner that no other object of the phrase lies in."""

    def lies(item: ShapeObject, side: str, edge: float) -> bool:
        x, y = _relative_center(scene, item)
        position = {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}[side]
        return position < edge

    def fits(*sides: str) -> bool:
        inside = all(lies(target, side, 0.42) for side in sides)
        return inside and not any(all(lies(o, side, 0.56) for side in sides) for o in others)

    sentences = []
    for side in ("left", "right", "top", "bottom"):
        if fits(side):
            preposition = "on the" if side in ("left", "right") else "at the"
            sentences.append(Sentence("place", f"{phrase} {preposition} {side}"))
            sentences.append(Sentence("place", f"{side} {phrase}"))
    for vertical in ("top", "bottom"):
        for horizontal in ("left", "right"):
            if fits(vertical, horizontal):
                sentences.append(Sentence("place", f"{phrase} in the {vertical} {horizontal}"))
    return sentences


def _list_superlatives(
    scene: Scene, target: ShapeObject, others: list[ShapeObject], phrase: str
) -> list[Sentence]:
    """The phrase with leftmost, rightmost, topmost or bottommost, 8 % of the side apart."""
    x, y = _relative_center(scene, target)
    rest = [_relative_center(scene, item) for item in others]
    lead = {
        "leftmost": min(other[0] for other in rest) - x,
        "rightmost": x - max(other[0] for other in rest),
        "topmost": min(other[1] for other in rest) - y,
        "bottommost": y - max(other[1] for other in rest),
    }
    return [Sentence("superlative", f"{word} {phrase}") for word, gap in lead.items() if gap > 0.08]


# --- files -----------------------------------------------------------------------------------


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


def _write_image(job: tuple[Path, int, int, int]) -> dict[str, Any]:
    """Draw and save one image; its record is numbered later."""
    folder, index, num_images, seed = job
    rng = random.Random(f"flmm shapes {seed} {index}")
    scene = render_scene(rng)
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
    height, width = scene.image_size
    split = _pick_split(index, num_images)
    return {"name": name, "size": (height, width), "split": split, "objects": objects}


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
        height, width = record["size"]
        images.append(
            {"id": image_id, "file_name": record["name"], "height": height, "width": width}
        )
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
