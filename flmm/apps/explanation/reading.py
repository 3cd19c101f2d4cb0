"""Reads where all tokens of a conversation looked, merged over heads as they come.

In: a chat and its tokens. Out: per picture one map per token. Each turn's rows are fed once, in
portions: tokens x heads x cells of one portion exist at a time, tokens x cells are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from flmm.apps.explanation.tokens import ExplainedToken
from flmm.conversation import Chat
from flmm.geometry import fit_to_picture

Head = tuple[int, int]
# Tokens x heads x cells that exist at once: 256 MiB in float32.
MAX_WEIGHTS = 2**26


def read_merged_maps(
    chat: Chat, tokens: Sequence[ExplainedToken], heads: Sequence[Head] | None = None
) -> list[np.ndarray]:
    """Per picture float32 ``[T, h, w]``: each token's attention on it, mean over heads.

    Args:
        chat: the conversation.
        tokens: T tokens of it.
        heads: (layer, head) of those that are merged; ``None``: all.

    Returns:
        one array per picture, padding cropped; zero where a token cannot see the picture, which
        came later.

    Raises:
        ValueError: there is no such head, or none at all.
    """
    channels = list_channels(chat, heads)
    parts: list[list[np.ndarray]] = [[] for _ in chat.images]
    for portion in _split_portions(chat, tokens):
        for own, merged in zip(parts, _read_portion(chat, portion, channels)):
            own.append(merged)
    return [np.concatenate(own) for own in parts]


def read_head_maps(chat: Chat, places: tuple[int, int]) -> list[np.ndarray]:
    """Per picture float32 ``[L*A, h, w]`` of one range of tokens, as the mask head is given it."""
    seen = chat.look([places])
    return [
        fit_to_picture(item.maps[0], image.grids[0].box, image.original_size).cpu().numpy()
        for item, image in zip(seen, chat.images)
    ]


def list_channels(chat: Chat, heads: Sequence[Head] | None) -> list[int] | None:
    """Channels ``l*A + a`` of heads; ``None`` for all."""
    if heads is None:
        return None
    vlm = chat.grounder.vlm
    layers, width = vlm.num_layers, vlm.num_heads
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
    chat: Chat, tokens: Sequence[ExplainedToken], channels: list[int] | None
) -> list[np.ndarray]:
    """Per picture ``[t, h, w]``."""
    first_picture = chat.dialogue.images[0].columns.stop
    sighted = [index for index, token in enumerate(tokens) if token.place >= first_picture]
    places = [tokens[index].place for index in sighted]
    seen = chat.look([(place, place + 1) for place in places]) if places else []
    merged = []
    for number, image in enumerate(chat.images):
        maps = torch.zeros(len(tokens), *image.grids[0].size)
        if places:
            own = seen[number].maps
            own = own.mean(1) if channels is None else own[:, channels].mean(1)
            maps[sighted] = own.cpu()
        merged.append(fit_to_picture(maps, image.grids[0].box, image.original_size).numpy())
    return merged


__all__ = ["MAX_WEIGHTS", "Head", "list_channels", "read_head_maps", "read_merged_maps"]
