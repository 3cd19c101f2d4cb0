"""Scenes rendered ahead of training and kept as the processor would resize them.

One ``.npz`` per image grid: ``pixels`` uint8 ``[N, H', W', 3]`` at the VLM's input size,
``cells`` int8 ``[N, h, w, 3]`` (colour, shape and size index of what covers each merged token,
0 for ground; the labels of the vision warm-up only) and, beside it, the scenes' words.
"""

from __future__ import annotations

import pickle
import random
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import functional as tvf
from tqdm import tqdm
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from flmm.toy.architecture import MAX_PIXELS, MERGE, MIN_PIXELS, TOKEN_SIDE_PX
from flmm.toy.shapes import COLORS, SHAPES, SIZES, Scene, render_scene

_MIN_COVERAGE = 0.15  # share of a token's area that makes it the object's


@dataclass(eq=False)
class GridScenes:
    """All scenes of one grid; ``scenes`` keep their words and places, not their masks."""

    pixels: np.ndarray
    cells: np.ndarray
    scenes: list[Scene]

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def patch_grid(self) -> tuple[int, int]:
        """(grid_h, grid_w) in patches."""
        return self.cells.shape[1] * MERGE, self.cells.shape[2] * MERGE


def resize_for_reader(image: np.ndarray) -> np.ndarray:
    """uint8 ``[H, W, 3]`` to uint8 ``[H', W', 3]`` as the tiny processor does it (bicubic)."""
    rows, columns = image.shape[:2]
    height, width = smart_resize(rows, columns, TOKEN_SIDE_PX, MIN_PIXELS, MAX_PIXELS)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    resized = tvf.resize(
        tensor, [height, width], interpolation=tvf.InterpolationMode.BICUBIC, antialias=True
    )
    return resized.permute(1, 2, 0).contiguous().numpy()


def label_cells(scene: Scene, grid: tuple[int, int]) -> np.ndarray:
    """int8 ``[h, w, 3]``: 1 + index of colour, shape and size of the covering object, else 0."""
    labels = np.zeros((*grid, 3), np.int8)
    best = np.full(grid, _MIN_COVERAGE, np.float32)
    for item in scene.objects:
        mask = item.mask.astype(np.float32)
        coverage = cv2.resize(mask, grid[::-1], interpolation=cv2.INTER_AREA)
        words = (
            1 + list(COLORS).index(item.color),
            1 + SHAPES.index(item.shape),
            1 + SIZES.index(item.size),
        )
        won = coverage >= best
        labels[won] = words
        best = np.where(won, coverage, best)
    return labels


def _render_block(job: tuple[int, int]) -> dict[tuple[int, int], list[tuple]]:
    seed, count = job
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rng = random.Random(f"tiny reader {seed}")
    blocks = defaultdict(list)
    for _ in range(count):
        scene = render_scene(rng)
        pixels = resize_for_reader(scene.image)
        grid = pixels.shape[0] // TOKEN_SIDE_PX, pixels.shape[1] // TOKEN_SIDE_PX
        cells = label_cells(scene, grid)
        size = scene.image_size
        for item in scene.objects:
            item.mask = np.zeros((0, 0), bool)
        # Only the words travel on; an empty picture of the right size keeps their geometry.
        words = Scene(np.broadcast_to(np.uint8(0), (*size, 3)), scene.objects)
        blocks[grid].append((pixels, cells, words))
    return blocks


def build_pool(folder: Path, num_scenes: int, seed: int, workers: int) -> None:
    """Render ``num_scenes`` and store them by grid under ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    block_size = 250
    jobs = [(seed * 100_000 + index, block_size) for index in range(-(-num_scenes // block_size))]
    by_grid: dict[tuple[int, int], list[tuple]] = defaultdict(list)
    with ProcessPoolExecutor(workers) as pool:
        rendered = pool.map(_render_block, jobs)
        for blocks in tqdm(rendered, total=len(jobs), desc="scenes", unit="block", disable=None):
            for grid, items in blocks.items():
                by_grid[grid] += items
    for (rows, columns), items in by_grid.items():
        pixels, cells, words = zip(*items)
        stem = f"{rows}x{columns}"
        np.savez(folder / f"{stem}.npz", pixels=np.stack(pixels), cells=np.stack(cells))
        scenes = [(scene.image_size, scene.objects) for scene in words]
        (folder / f"{stem}.pkl").write_bytes(pickle.dumps(scenes))
        print(f"{stem}: {len(items)} scenes")


def load_pool(folder: Path) -> list[GridScenes]:
    """Everything :func:`build_pool` stored, one entry per grid, in the order of the names."""
    pool = []
    for path in sorted(folder.glob("*.npz")):
        arrays = np.load(path)
        stored = pickle.loads(path.with_suffix(".pkl").read_bytes())
        scenes = [
            Scene(np.broadcast_to(np.uint8(0), (*size, 3)), objects) for size, objects in stored
        ]
        pool.append(GridScenes(arrays["pixels"], arrays["cells"], scenes))
    if not pool:
        raise FileNotFoundError(f"no scenes in {folder}: run the stage 'scenes' first")
    return pool
