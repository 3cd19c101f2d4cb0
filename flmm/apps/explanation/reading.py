"""Where all tokens of a conversation looked, and which of them look at a region of a picture.

Each turn's rows are fed once, in portions: tokens x heads x cells of one portion exist at a time,
tokens x cells are kept. A token that puts the weight ``m[i, j]`` on cell ``(i, j)`` looks at a
region that covers ``c[i, j]`` of each cell, in [0, 1], with the share ``sum(m * c) / sum(m)``. One
that looks everywhere alike, as is expected of a token that knows nothing, has the share
``sum(c) / (h * w)``. Tokens are ranked by the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flmm.apps.explanation.tokens import ExplainedToken
from flmm.conversation import Chat
from flmm.geometry import Size, compute_coverage, merge_grids
from flmm.head_choice import Head

# A region is one of both: xyxy in pixels of the picture as given, or bool ``[H, W]``.
RegionBox = Sequence[float] | np.ndarray | None
RegionMask = np.ndarray | None
# Tokens x heads x cells that exist at once: 256 MiB in float32.
MAX_WEIGHTS = 2**26


@dataclass(frozen=True)
class RankedToken:
    """How much the token at ``index`` of the explanation's ``tokens`` looks at a region.

    Attributes:
        weight: its attention inside the region, of all it has (mean over the merged heads).
        share: of its attention on the picture the part inside the region.
        expected: the region's share of the picture's grid cells.
    """

    index: int
    token: ExplainedToken
    weight: float
    share: float
    expected: float

    @property
    def excess(self) -> float:
        """Share above what is expected, in [-1, 1]: what tokens are ranked by."""
        return self.share - self.expected


def read_merged_maps(
    chat: Chat, tokens: Sequence[ExplainedToken], heads: Sequence[Head] | None = None
) -> list[np.ndarray]:
    """Per picture float32 ``[T, h, w]``: each token's attention on it, mean over ``heads`` or all.

    Zero where a token cannot see the picture, because it came later.
    """
    channels = _list_channels(chat, heads)
    portions = [_read_portion(chat, part, channels) for part in _split_portions(chat, tokens)]
    return [np.concatenate(own) for own in zip(*portions)]


def _list_channels(chat: Chat, heads: Sequence[Head] | None) -> list[int] | slice:
    """Channels ``l*A + a`` of heads."""
    if heads is None:
        return slice(None)
    layers, width = chat.grounder.vlm.num_layers, chat.grounder.vlm.num_heads
    if not heads:
        raise ValueError("no head is given to merge: give (layer, head) pairs, or None for all")
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < width):
            raise ValueError(
                f"there is no head {head} of layer {layer}: this reader has layers 0 to "
                f"{layers - 1} with heads 0 to {width - 1} (was the ranking made with another?)"
            )
    return [layer * width + head for layer, head in heads]


def _split_portions(
    chat: Chat, tokens: Sequence[ExplainedToken]
) -> Iterator[Sequence[ExplainedToken]]:
    """Tokens of one turn each, so few that their weights of all heads fit the budget."""
    cells = sum(grid.columns.numel() for image in chat.images for grid in image.grids)
    size = max(1, MAX_WEIGHTS // (chat.grounder.vlm.num_maps * cells))
    for turn in sorted({token.turn for token in tokens}):
        own = [token for token in tokens if token.turn == turn]
        for first in range(0, len(own), size):
            yield own[first : first + size]


def _read_portion(
    chat: Chat, tokens: Sequence[ExplainedToken], channels: list[int] | slice
) -> list[np.ndarray]:
    """Per picture ``[t, h, w]``."""
    first_picture = chat.dialogue.images[0].columns.stop
    sighted = [index for index, token in enumerate(tokens) if token.place >= first_picture]
    places = [tokens[index].place for index in sighted]
    seen = chat.look([(place, place + 1) for place in places]) if places else []
    portion = []
    for number, image in enumerate(chat.images):
        grid_maps = [torch.zeros(len(tokens), *grid.size) for grid in image.grids]
        for maps, own in zip(grid_maps, seen[number].grid_maps if places else []):
            maps[sighted] = own[:, channels].mean(1).cpu()
        portion.append(merge_grids(grid_maps, image).numpy())
    return portion


def compute_region_coverage(
    image_size: Size, grid_size: Size, box: RegionBox = None, mask: RegionMask = None
) -> np.ndarray:
    """Share of each cell of a grid (h, w) that a region of a picture (H, W) covers, float64.

    What of a box reaches outside is cut off.

    Raises:
        TypeError: the mask is not bool.
        ValueError: not exactly one region is given; it is empty, outside, or of another size.
    """
    if (box is None) == (mask is None):
        raise ValueError("give one region: a box (x0, y0, x1, y1 in pixels) or a mask")
    if mask is not None:
        checked = torch.from_numpy(_check_mask(mask, image_size))[None]
        return compute_coverage(checked, grid_size)[0].double().numpy()
    x0, y0, x1, y1 = _check_box(box, image_size)
    rows = _compute_overlaps(y0, y1, image_size[0], grid_size[0])
    return np.outer(rows, _compute_overlaps(x0, x1, image_size[1], grid_size[1]))


def rank_maps(
    tokens: Sequence[ExplainedToken], maps: np.ndarray, coverage: np.ndarray
) -> list[RankedToken]:
    """Tokens by how much more they look at a region than a token that knows nothing.

    ``maps`` are ``[T, h, w]``, ``coverage`` of the region ``[h, w]``; tokens with no weight on the
    picture are left out.
    """
    maps = maps.astype(np.float64)
    inside, total = (maps * coverage).sum((1, 2)), maps.sum((1, 2))
    expected = float(coverage.mean())
    ranked = [
        RankedToken(index, token, float(part), float(part / whole), expected)
        for index, (token, part, whole) in enumerate(zip(tokens, inside, total))
        if whole > 0
    ]
    return sorted(ranked, key=lambda item: -item.excess)


def _compute_overlaps(start: float, end: float, length: int, cells: int) -> np.ndarray:
    """Share of each cell of a line that lies between two places, in pixels."""
    edges = np.arange(cells + 1)
    low, high = start * cells / length, end * cells / length
    return (np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1])).clip(min=0)


def _check_box(box: Any, image_size: Size) -> np.ndarray:
    """The box as float64 ``[4]``, cut off at the picture's border."""
    edges = np.asarray(box, dtype=np.float64)
    height, width = image_size
    if edges.shape != (4,) or not np.isfinite(edges).all():
        raise ValueError(f"the box is {box}: give four finite numbers, x0 y0 x1 y1 in pixels")
    if edges[2] <= edges[0] or edges[3] <= edges[1]:
        raise ValueError(f"the box {edges.tolist()} is empty: x0 < x1 and y0 < y1 are needed")
    cut = np.clip(edges, 0, [width, height, width, height])
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        raise ValueError(
            f"the box {edges.tolist()} lies outside the picture, which is {width} px wide and "
            f"{height} px high: give x0 y0 x1 y1 in pixels of the picture"
        )
    return cut


def _check_mask(mask: Any, image_size: Size) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"the mask holds {mask.dtype}: give bool, for example mask > 0.5")
    if mask.shape != tuple(image_size):
        raise ValueError(
            f"the mask is of size {mask.shape}, the picture of size {tuple(image_size)} (h, w): "
            "give the mask in pixels of the picture as given"
        )
    if not mask.any():
        raise ValueError("the mask is empty: give one with at least one pixel")
    return np.ascontiguousarray(mask)
