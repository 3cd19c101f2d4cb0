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
        maps = [item[rows] for item in seen.grid_maps]
        parts.append(PhraseAttention(maps, seen.text_features[rows], ids, states))
        start = rows.stop
    return parts


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
    maps: dict[str, Tensor] = {}
    for number, own in enumerate(seen.grid_maps):
        maps |= pack_tensor(f"maps_{number}", own, storage, row_dims=2)
    return {
        **maps,
        "grids": torch.tensor(len(seen.grid_maps), dtype=torch.int32),
        **pack_tensor("text_features", features, storage, row_dims=1),
        **kept,
        "lengths": torch.tensor(lengths, dtype=torch.int32),
        "input_ids": seen.input_ids[0].to("cpu", torch.int32),
    }


def unpack_phrases(stored: dict[str, Tensor], device: torch.device) -> PhraseAttention:
    """The phrases of one continuation, on ``device``."""
    features = unpack_tensor("text_features", stored, device)
    return PhraseAttention(
        grid_maps=[
            unpack_tensor(f"maps_{number}", stored, device)
            for number in range(int(stored["grids"]))
        ],
        text_features=list(features.split(stored["lengths"].tolist(), dim=1)),
        input_ids=[stored["input_ids"].to(device, torch.int64)],
        hidden_states=[
            unpack_tensor("hidden_states", stored, device) if "hidden_states" in stored else None
        ],
    )


__all__ = ["pack_phrases", "split_phrases", "unpack_phrases"]
