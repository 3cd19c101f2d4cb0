"""Scenes drawn before a training: those of one grid together, and what covers each image token.

In: a number of scenes; the same number gives the same scenes. Out: pictures with their words.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from flmm.toy.shapes import COLORS, SHAPES, SIZES, Scene, draw_in_processes, render_scene

TOKEN_SIDE_PX = 28
# 56 to 80 image tokens, whatever the picture's size: objects keep their size in tokens.
_MIN_PIXELS, _MAX_PIXELS = 56 * TOKEN_SIDE_PX**2, 80 * TOKEN_SIDE_PX**2
_MIN_COVERAGE = 0.15  # share of a token's area that makes it the object's
_BLOCK = 250  # scenes drawn from one source of randomness


@dataclass(eq=False)
class GridScenes:
    """All scenes of one grid.

    Attributes:
        scenes: pictures and words; the objects' masks are dropped.
        cells: int8 ``[N, h, w, 3]``: colour, shape and size index of what covers each image token,
            0 for ground; the labels of the vision warm-up only.
    """

    scenes: list[Scene]
    cells: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)


def draw_scenes(count: int, workers: int) -> list[GridScenes]:
    """``count`` scenes by grid, in the order of the grids' names."""
    sizes = [min(_BLOCK, count - start) for start in range(0, count, _BLOCK)]
    by_grid = defaultdict(list)
    for block in draw_in_processes(_draw_block, list(enumerate(sizes)), workers, "block"):
        for item in block:
            by_grid[item[1].shape[:2]].append(item)
    pool = []
    for grid in sorted(by_grid, key=lambda grid: f"{grid[0]}x{grid[1]}."):
        scenes, cells = zip(*by_grid.pop(grid))
        pool.append(GridScenes(list(scenes), np.stack(cells)))
        print(f"{grid[0]} x {grid[1]} image tokens: {len(scenes)} scenes")
    return pool


def _draw_block(job: tuple[int, int]) -> list[tuple[Scene, np.ndarray]]:
    index, count = job
    rng, block = random.Random(f"tiny reader {index}"), []
    for _ in range(count):
        scene = render_scene(rng)
        cells = label_cells(scene, compute_token_grid(scene.image_size))
        for item in scene.objects:
            item.mask = np.zeros((0, 0), bool)
        block.append((scene, cells))
    return block


def compute_token_grid(image_size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) in image tokens, as the tiny reader's processor resizes a picture."""
    height, width = smart_resize(*image_size, TOKEN_SIDE_PX, _MIN_PIXELS, _MAX_PIXELS)
    return height // TOKEN_SIDE_PX, width // TOKEN_SIDE_PX


def label_cells(scene: Scene, grid: tuple[int, int]) -> np.ndarray:
    """int8 ``[h, w, 3]``: 1 + index of colour, shape and size of the covering object, else 0."""
    labels = np.zeros((*grid, 3), np.int8)
    best = np.full(grid, _MIN_COVERAGE, np.float32)
    for item in scene.objects:
        mask = item.mask.astype(np.float32)
        coverage = cv2.resize(mask, grid[::-1], interpolation=cv2.INTER_AREA)
        indices = list(COLORS).index(item.color), SHAPES.index(item.shape), SIZES.index(item.size)
        won = coverage >= best
        labels[won] = np.add(indices, 1)
        best = np.where(won, coverage, best)
    return labels
