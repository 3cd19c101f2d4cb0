"""Which words point, and token -> region and region -> token: ``flmm.apps.explanation`` by words.

Every figure is of the conversation's first picture, the only one that the page shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from flmm.apps.explanation.reading import RankedToken, rank_maps, read_merged_maps
from flmm.apps.explanation.tokens import ExplainedToken, group_words, join_text, list_tokens
from flmm.conversation import BRACKETS, Chat, TurnToken
from flmm.geometry import merge_grids
from flmm.records import Span
from flmm.selectors import Answer
from flmm.visualization import merge_channels

_ITEM = re.compile(r"[^\s,;.:\n](?:[^,;.:\n]*[^\s,;.:\n])?")


class ListSelector:
    """What stands between commas, stops and lines: for a reader that cannot name items again."""

    def select(self, answer: Answer) -> list[Span]:
        """See ``flmm.selectors.PhraseSelector``."""
        items = [match.span() for match in _ITEM.finditer(answer.text)]
        return [
            (start, end) for start, end in items if any(map(str.isalpha, answer.text[start:end]))
        ]


# What the page offers: label, selectors; None: those of the model's config.
CHOICES: dict[str, tuple[str, Sequence[Any] | None]] = {
    "config": ("the model's own choice", None),
    "list": ("parts between commas", (BRACKETS, ListSelector())),
    "noun_chunks": ("noun chunks (spaCy)", (BRACKETS, "noun_chunks")),
    "reader": ("objects the reader names", (BRACKETS, "reader")),
    "brackets": ("only words in [brackets]", (BRACKETS,)),
}


def find_selectors(name: str) -> Sequence[Any] | None:
    """The selectors of a choice, for ``Chat.stream``."""
    if name not in CHOICES:
        raise ValueError(f"there is no choice of words {name!r}: choose of {', '.join(CHOICES)}")
    return CHOICES[name][1]


@torch.inference_mode()
def look_from_token(chat: Chat, token: TurnToken) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a token looks: two maps and the mask ``[H, W]`` that the mask head makes of it.

    Float32 ``[h, w]``: mean weight over all heads; over those that favour the mask most.
    """
    seen = chat.look([(token.place, token.place + 1)])[0]
    mask = chat.ground(seen, 0)[0].mask
    merged = merge_grids([maps[0] for maps in seen.grid_maps], chat.images[0])
    maps = merged.float().cpu().numpy()
    return maps.mean(0), merge_channels(maps, mask), mask


@torch.inference_mode()
def read_turn_maps(chat: Chat, turn: int) -> np.ndarray:
    """Where each token of a turn looks: float32 ``[T, h, w]``, mean over layers and heads."""
    own = [token for token in list_tokens(chat.turns) if token.turn == turn]
    return read_merged_maps(chat, own)[0]


def rank_words(
    tokens: Sequence[ExplainedToken], maps: np.ndarray, coverage: np.ndarray
) -> list[RankedToken]:
    """The words of a conversation, those first that look into a region most.

    Of T tokens, their maps ``[T, h, w]``, and the region's share of each cell ``[h, w]``. A word
    looks where its tokens do on average, and stands for its first one.
    """
    spans = group_words(tokens)
    if not spans:
        return []
    words = [replace(tokens[start], text=join_text(tokens[start:end])) for start, end in spans]
    return rank_maps(words, np.stack([maps[start:end].mean(0) for start, end in spans]), coverage)


def compute_excess(
    tokens: Sequence[ExplainedToken], maps: np.ndarray, coverage: np.ndarray
) -> list[list[float]]:
    """Per turn, for each of its tokens, how much it looks into a region; see ``rank_words``."""
    known = {item.index: item.excess for item in rank_maps(tokens, maps, coverage)}
    excess: list[list[float]] = [[] for _ in range(tokens[-1].turn + 1)]
    for index, token in enumerate(tokens):
        excess[token.turn].append(known.get(index, 0.0))
    return excess
