"""Are maps over a resampler's patches better than over its queries? Measured on drawn truth.

A reader of Qwen-VL's first generation is given 256 queries of a resampler in place of 1024 patches;
the weights with which a query looked at the patches take a map of 16 x 16 back to 32 x 32. Here the
toy of its classes (8 x 8 queries, 16 x 16 patches) after the stage "vision" of its training, and
two kinds of maps: how surely a linear layer names an object's colour and shape at each query, and
what a perfect reader would say, the share of a query's cell that the object covers. Neither is the
attention of a language model; cells and pictures are the same.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flmm.geometry import resize_maps
from flmm.toy.reader_data import encode_prefixes, label_cells
from flmm.toy.reader_families import find_family, load_reader
from flmm.toy.shapes import COLORS, SHAPES, Scene, ShapeObject, render_scene

THRESHOLDS = torch.linspace(0.05, 0.95, 19)  # of a map's greatest value
_STEPS, _BATCH = 300, 25


class SeenScene(NamedTuple):
    """A scene, its image tokens ``[Q, D]``, and where they looked ``[Q, patches]``."""

    scene: Scene
    tokens: Tensor
    weights: Tensor


Mapper = Callable[[SeenScene, ShapeObject], Tensor]


def compare_maps(folder: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """A row for each kind of maps: mean IoU in percent over queries, patches, and both of them.

    Args:
        folder: of the stage "vision" with ``--family qwen_vl``.
        count: scenes for the linear layer, as many for the thresholds, as many to measure.
        seed: of the scenes, which the training has not drawn.
    """
    model, processor = load_reader(folder)
    grid = find_family(model).compute_token_grid((1, 1))
    rng = random.Random(f"resampler maps {seed}")
    parts = [
        see_scenes(model, processor, [render_scene(rng) for _ in range(count)]) for _ in range(3)
    ]
    mappers = {"linear layer": fit_probe(parts[0], grid, seed), "covered share": cover(grid)}
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "over queries": lambda maps, _: maps,
        "over patches": spread_maps,
        "both": lambda maps, weights: _double(maps) * spread_maps(maps, weights),
    }
    rows = []
    for name, mapper in mappers.items():
        row: dict[str, Any] = {"maps": name}
        for way, take in ways.items():
            tuned, measured = (measure_overlap(seen, mapper, take) for seen in parts[1:])
            row[way] = 100 * measured[:, tuned.mean(0).argmax()].mean().item()
        rows.append(row | {"own share": 100 * measure_own_share(parts[2], grid)})
    return rows


def spread_maps(maps: Tensor, weights: Tensor) -> Tensor:
    """Maps ``[..., h, w]`` over image tokens as maps ``[..., H, W]`` over the patches.

    Each token's share goes where it looked (``[h*w, H*W]`` of a picture): the sum of a map stays.
    """
    side = math.isqrt(weights.shape[-1])
    return (maps.flatten(-2) @ weights).unflatten(-1, (side, side))


def _double(maps: Tensor) -> Tensor:
    """Twice as many cells, each of four with its parent's value."""
    return maps.repeat_interleave(2, -1).repeat_interleave(2, -2)


@torch.no_grad()
def see_scenes(model: Any, processor: Any, scenes: list[Scene]) -> list[SeenScene]:
    """What the tower makes of scenes."""
    seen: list[SeenScene] = []
    tower = model.model.visual.eval()
    for start in range(0, len(scenes), _BATCH):
        own = scenes[start : start + _BATCH]
        pixels = encode_prefixes(processor, [item.image for item in own])["pixel_values"]
        weights: list[Tensor] = []
        seen += map(SeenScene, own, tower(pixels, weights), weights)
    return seen


def fit_probe(seen: list[SeenScene], grid: tuple[int, int], seed: int) -> Mapper:
    """Learns to name colour and shape of what covers a cell; gives how sure it is of an object."""
    labels = torch.stack([torch.from_numpy(label_cells(item.scene, grid)) for item in seen])
    colors, shapes = labels.flatten(0, 2)[:, :2].long().unbind(1)
    tokens = torch.cat([item.tokens for item in seen]).clone()
    torch.manual_seed(seed)
    layer = nn.Linear(tokens.shape[1], len(COLORS) + len(SHAPES) + 2)
    sizes = [len(COLORS) + 1, len(SHAPES) + 1]
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=0.01)
    for _ in range(_STEPS):
        parts = layer(tokens).split(sizes, 1)
        loss = F.cross_entropy(parts[0], colors) + F.cross_entropy(parts[1], shapes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def name_cells(item: SeenScene, target: ShapeObject) -> Tensor:
        color, shape = (part.softmax(1) for part in layer(item.tokens).split(sizes, 1))
        index = list(COLORS).index(target.color) + 1, SHAPES.index(target.shape) + 1
        return (color[:, index[0]] * shape[:, index[1]]).view(grid)

    return name_cells


def cover(grid: tuple[int, int]) -> Mapper:
    """The share of each cell that an object covers."""

    def cover_cells(_: SeenScene, target: ShapeObject) -> Tensor:
        mask = torch.from_numpy(target.mask)[None, None].float()
        return F.interpolate(mask, grid, mode="area")[0, 0]

    return cover_cells


def measure_overlap(
    seen: list[SeenScene], mapper: Mapper, take: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """IoU ``[objects, thresholds]`` of masks from maps that ``take`` makes of the mapper's."""
    rows = []
    for item in seen:
        for target in item.scene.objects:
            maps = take(mapper(item, target), item.weights)
            fine = resize_maps(maps[None], item.scene.image_size)[0]
            found = fine[None] > THRESHOLDS[:, None, None] * fine.max()
            mask = torch.from_numpy(target.mask)
            shared, either = (part.sum((1, 2)) for part in (found & mask, found | mask))
            rows.append(shared / either.clamp(min=1))
    return torch.stack(rows)


def measure_own_share(seen: list[SeenScene], grid: tuple[int, int]) -> float:
    """How much of a query's weight lies on the patches of its own cell."""
    own = _double(torch.eye(grid[0] * grid[1]).view(-1, *grid)).flatten(1)
    return torch.stack([(item.weights * own).sum(1).mean() for item in seen]).mean().item()
