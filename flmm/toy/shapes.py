"""Synthetic scenes: 1 to 6 coloured shapes whose exact masks are known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm
from tqdm.contrib.concurrent import process_map

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
SIZES = ("small", "big")
MAX_OBJECTS = 6
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

_RADIUS = {"small": (0.058, 0.100), "big": (0.135, 0.215)}  # of sqrt(H * W)
_MIN_CONTRAST = 105.0  # euclidean RGB distance between an object and the ground under it
_MIN_VISIBLE_AREA = 0.55  # of the whole shape's area, else the object is left out
_SIDE_PX = (200, 400)


@dataclass
class ShapeObject:
    """One drawn object; lengths are in pixels.

    Attributes:
        radius: of the circumscribed circle.
        angle: in radians.
        tone: RGB of its fill.
        stroke: width of its outline, which belongs to the mask; 0 for none.
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

    def name(self, *words: str) -> str:
        """Some of its words, such as ``name("color", "shape")``: "red circle"."""
        return " ".join(getattr(self, word) for word in words)

    def cell(self, image_size: tuple[int, int], side: int) -> tuple[int, int]:
        """(row, column) of the centre in a grid of ``side`` by ``side`` over the image."""
        height, width = image_size
        column = min(side - 1, int(side * self.center_xy[0] / width))
        return min(side - 1, int(side * self.center_xy[1] / height)), column

    def place(self, image_size: tuple[int, int]) -> tuple[str, str]:
        """(vertical, horizontal) third of the image that holds the centre, in words."""
        row, column = self.cell(image_size, 3)
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


def render_scene(rng: random.Random, min_objects: int = 1) -> Scene:
    """Draw a scene of ``min_objects`` to ``MAX_OBJECTS``: any format, sides of 200 to 400 pixels.

    ``rng`` is the only source of randomness; without room for the least number all is drawn anew.
    """
    ground = _draw_ground(rng, *_draw_image_size(rng))
    objects: list[ShapeObject] = []
    for _ in range(rng.randint(min_objects, MAX_OBJECTS)):
        item = _place_object(rng, objects, ground)
        if item is not None:
            objects.append(item)
    if len(objects) >= min_objects:
        image = _paint(rng, ground, objects)
        if all(map(_is_visible, objects)):  # a buried object would make its words ambiguous
            return Scene(image, objects)
    return render_scene(rng, min_objects)


def draw_in_processes(
    draw: Callable[[Any], Any], jobs: Sequence[Any], workers: int, unit: str
) -> list[Any]:
    """``draw`` of every job, in order; with one worker in this process."""
    bar: dict[str, Any] = {"desc": "scenes", "unit": unit, "disable": None}
    if workers <= 1:
        return list(tqdm(map(draw, jobs), total=len(jobs), **bar))
    chunk = max(1, min(16, len(jobs) // (4 * workers)))
    return process_map(draw, jobs, max_workers=workers, chunksize=chunk, **bar)


def compute_box_xywh(mask: np.ndarray) -> list[int]:
    """The box of a bool mask ``[H, W]`` with a pixel in it, as COCO has it: x, y, width, height."""
    return list(cv2.boundingRect(mask.astype(np.uint8)))


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
