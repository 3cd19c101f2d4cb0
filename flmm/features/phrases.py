"""Maps and text features of phrases, continuation by continuation, as a file holds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flmm.features.half_precision import pack_tensors, unpack_tensors
from flmm.records import Continuation, PhraseAttention

_MAPS = "maps_"


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
    """The phrases of one continuation as a file holds them, perhaps with ``hidden_states``."""
    maps = {f"{_MAPS}{number:03d}": own for number, own in enumerate(seen.grid_maps)}
    rows = {"text_features": torch.cat(seen.text_features, dim=1)}  # [L, tokens of all phrases, D]
    if seen.hidden_states and seen.hidden_states[0] is not None:
        rows["hidden_states"] = seen.hidden_states[0]
    lengths = [item.shape[1] for item in seen.text_features]
    return {
        **pack_tensors(maps, storage, row_dims=2),
        **pack_tensors(rows, storage, row_dims=1),
        "lengths": torch.tensor(lengths, dtype=torch.int32),
        "input_ids": seen.input_ids[0].to("cpu", torch.int32),
    }


def unpack_phrases(stored: dict[str, Tensor], device: torch.device) -> PhraseAttention:
    """The phrases of one continuation, on ``device``."""
    tensors = unpack_tensors(stored, device)
    return PhraseAttention(
        grid_maps=[tensors[name] for name in sorted(tensors) if name.startswith(_MAPS)],
        text_features=list(tensors["text_features"].split(stored["lengths"].tolist(), dim=1)),
        input_ids=[tensors["input_ids"].to(torch.int64)],
        hidden_states=[tensors.get("hidden_states")],
    )
