"""Maps and text features of phrases, continuation by continuation.

In: a :class:`PhraseAttention` of all continuations of a picture. Out: one for each continuation, as
named tensors for a file, and back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flmm.features.half_precision import pack_tensor, unpack_tensor
from flmm.records import Continuation, PhraseAttention


def split_phrases(
    seen: PhraseAttention, continuations: Sequence[Continuation]
) -> list[PhraseAttention]:
    """One record for each continuation."""
    parts, start = [], 0
    for position, item in enumerate(continuations):
        rows = slice(start, start + len(item.spans or ()))
        own = slice(position, position + 1)
        ids, states = seen.input_ids[own], seen.hidden_states[own]
        parts.append(PhraseAttention(seen.maps[rows], seen.text_features[rows], ids, states))
        start = rows.stop
    return parts


def join_phrases(parts: Sequence[PhraseAttention]) -> PhraseAttention:
    """One record of several, in order."""
    return PhraseAttention(
        maps=torch.cat([part.maps for part in parts]),
        text_features=[features for part in parts for features in part.text_features],
        input_ids=[ids for part in parts for ids in part.input_ids],
        hidden_states=[
            states
            for part in parts
            for states in part.hidden_states or [None] * len(part.input_ids)
        ],
    )


def pack_phrases(seen: PhraseAttention, storage: str) -> dict[str, Tensor]:
    """The phrases of one continuation as a file holds them.

    Args:
        seen: of one continuation; its ``hidden_states`` are stored where they are there.
        storage: "float16" or "float32".
    """
    features = torch.cat(seen.text_features, dim=1)  # [L, tokens of all phrases, D]
    lengths = [item.shape[1] for item in seen.text_features]
    states = seen.hidden_states[0] if seen.hidden_states else None
    kept = {} if states is None else pack_tensor("hidden_states", states, storage, row_dims=1)
    return {
        **pack_tensor("maps", seen.maps, storage, row_dims=2),
        **pack_tensor("text_features", features, storage, row_dims=1),
        **kept,
        "lengths": torch.tensor(lengths, dtype=torch.int32),
        "input_ids": seen.input_ids[0].to("cpu", torch.int32),
    }


def unpack_phrases(stored: dict[str, Tensor], device: torch.device) -> PhraseAttention:
    """The phrases of one continuation, on ``device``."""
    features = unpack_tensor("text_features", stored, device)
    return PhraseAttention(
        maps=unpack_tensor("maps", stored, device),
        text_features=list(features.split(stored["lengths"].tolist(), dim=1)),
        input_ids=[stored["input_ids"].to(device, torch.int64)],
        hidden_states=[
            unpack_tensor("hidden_states", stored, device) if "hidden_states" in stored else None
        ],
    )


__all__ = ["join_phrases", "pack_phrases", "split_phrases", "unpack_phrases"]
