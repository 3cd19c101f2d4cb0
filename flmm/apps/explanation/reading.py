"""Reads where all tokens of a conversation looked, merged over heads as they come.

In: a chat and its tokens. Out: per picture one map per token. Each turn's rows are fed once, in
portions: tokens x heads x cells of one portion exist at a time, tokens x cells are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from flmm.apps.explanation.tokens import ExplainedToken
from flmm.conversation import Chat
from flmm.geometry import fit_to_picture, resample_area
from flmm.records import Grid, ImageInput

Head = tuple[int, int]
# Tokens x heads x cells that exist at once: 256 MiB in float32.
MAX_WEIGHTS = 2**26


def read_merged_maps(
    chat: Chat, tokens: Sequence[ExplainedToken], heads: Sequence[Head] | None = None
) -> list[np.ndarray]:
    """Per picture float32 ``[T, h, w]``: each token's attention on it, mean over ``heads`` or all.

    Zero where a token cannot see the picture, because it came later.

    Raises:
        ValueError: there is no such head, or none at all.
    """
    channels = _list_channels(chat, heads)
    parts: list[list[np.ndarray]] = [[] for _ in chat.images]
    for portion in _split_portions(chat, tokens):
        for own, merged in zip(parts, _read_portion(chat, portion, channels)):
            own.append(merged)
    return [np.concatenate(own) for own in parts]


def merge_grids(grid_maps: Sequence[Tensor], image: ImageInput) -> Tensor:
    """All attention on a picture, that on its tiles and on its thumbnail alike, as one map.

    A cell of a coarser grid gives its weight to the finest grid's cells by the area they share.
    ``[..., h_g, w_g]`` of each grid, finest first, to ``[..., h, w]`` over the picture as given.
    """
    fine = image.grids[0]
    merged = grid_maps[0]
    for maps, grid in zip(grid_maps[1:], image.grids[1:]):
        density = resample_area(maps, grid.box, fine.box, fine.size)
        merged = merged + density * (_compute_cell_area(fine) / _compute_cell_area(grid))
    return fit_to_picture(merged, fine.box, image.original_size)


def _compute_cell_area(grid: Grid) -> float:
    x0, y0, x1, y1 = grid.box
    return (x1 - x0) * (y1 - y0) / grid.columns.numel()


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
