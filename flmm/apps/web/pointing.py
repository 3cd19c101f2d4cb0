"""Token -> region and region -> token for the page: ``flmm.apps.explanation`` by words.

In: a conversation. Out: heat maps of one token, or words ranked by how much they look into a
region. Every figure is of the conversation's first picture, the only one that the page shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flmm.apps.explanation.reading import read_merged_maps
from flmm.apps.explanation.regions import rank_maps
from flmm.apps.explanation.tokens import ExplainedToken, group_words, join_text, list_tokens
from flmm.conversation import Chat, TurnToken
from flmm.geometry import fit_to_picture
from flmm.visualization import merge_channels


@dataclass(frozen=True, eq=False)
class TokenLook:
    """Where one token looks.

    Attributes:
        all_heads: float32 ``[h, w]``, mean weight over all layers and heads.
        best_heads: float32 ``[h, w]``, of the heads that favour ``mask`` most.
        mask: bool ``[H, W]``, what the mask head makes of it, pixels of the picture.
    """

    all_heads: np.ndarray
    best_heads: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class RankedWord:
    """A word of the conversation and how much it looks into a region.

    Attributes:
        text: the word.
        role: ``"question"`` or ``"answer"``.
        turn: which turn, from 0.
        excess: share of the word's attention on the picture that lies in the region, minus the
            region's share of the picture's grid cells; in [-1, 1].
    """

    text: str
    role: str
    turn: int
    excess: float


@torch.inference_mode()
def look_from_token(chat: Chat, token: TurnToken) -> TokenLook:
    """Where a token of the conversation looks."""
    seen = chat.look([(token.place, token.place + 1)])[0]
    mask = chat.ground(seen, 0)[0].mask
    image = chat.images[0]
    maps = (
        fit_to_picture(seen.maps[0], image.grids[0].box, image.original_size).float().cpu().numpy()
    )
    return TokenLook(maps.mean(0), merge_channels(maps, mask), mask)


@torch.inference_mode()
def read_turn_maps(chat: Chat, turn: int) -> np.ndarray:
    """Where each token of a turn looks: float32 ``[T, h, w]``, mean over layers and heads."""
    own = [token for token in list_tokens(chat.turns) if token.turn == turn]
    return read_merged_maps(chat, own)[0]


def rank_words(
    tokens: Sequence[ExplainedToken], maps: np.ndarray, coverage: np.ndarray
) -> list[RankedWord]:
    """The words of a conversation, those first that look into a region most.

    Args:
        tokens: T tokens of it.
        maps: ``[T, h, w]``, where they look; a word looks where its tokens do on average.
        coverage: ``[h, w]`` in [0, 1], the region's share of each grid cell.
    """
    words = group_words(tokens)
    if not words:
        return []
    merged = np.stack([maps[start:end].mean(0) for start, end in words])
    ranked = rank_maps([tokens[start] for start, _ in words], merged, coverage)
    return [
        RankedWord(
            join_text(tokens[slice(*words[item.index])]),
            item.token.role,
            item.token.turn,
            item.excess,
        )
        for item in ranked
    ]


def compute_excess(
    tokens: Sequence[ExplainedToken], maps: np.ndarray, coverage: np.ndarray
) -> list[list[float]]:
    """Per turn, for each of its tokens, how much it looks into a region; see ``rank_words``."""
    excess: list[list[float]] = [[] for _ in range(max((t.turn for t in tokens), default=-1) + 1)]
    known = {item.index: item.excess for item in rank_maps(tokens, maps, coverage)}
    for index, token in enumerate(tokens):
        excess[token.turn].append(known.get(index, 0.0))
    return excess


__all__ = [
    "RankedWord",
    "TokenLook",
    "compute_excess",
    "look_from_token",
    "rank_words",
    "read_turn_maps",
]
