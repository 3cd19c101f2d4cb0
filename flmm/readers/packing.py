"""Continuations of several images as one pass behind their prefixes, and what was seen.

All continuations of an image stand side by side in its row, each from the position right after the
prefix; rows are padded on the right. Layers that keep a state would let one hear the other: there
each continuation has a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flmm.readers.attention import build_continuation_mask
from flmm.readers.frozen_model import FrozenModel
from flmm.readers.prefixes import Prefix, gather_grids, share_cache
from flmm.readers.prompts import EncodedContinuation
from flmm.records import PhraseAttention, Span, join_attention

Pack = list[EncodedContinuation]
_PADDING = -1  # the continuation that padding belongs to


def attend_prefixes(
    model: FrozenModel,
    prefixes: Sequence[Prefix],
    packs: Sequence[Sequence[Pack]],
    max_tokens: int,
) -> list[PhraseAttention]:
    """What the continuations of any prefixes see; those read together are asked together.

    ``packs`` are those of each prefix, each a row of a pass; of one prefix several rows stand in a
    pass only where the model keeps states, up to ``max_tokens`` with prefix and padding.
    """
    together: dict[int, list[int]] = {}
    for place, prefix in enumerate(prefixes):
        together.setdefault(id(prefix.batch), []).append(place)
    parts: list[list[PhraseAttention]] = [[] for _ in prefixes]
    for places in together.values():
        rows = [(place, pack) for place in places for pack in packs[place]]
        if model.keeps_states:
            longest = max(len(item.input_ids) for _, pack in rows for item in pack)
            limit = max_tokens // (max(len(prefixes[place]) for place in places) + longest)
        else:
            limit = len(rows) if all(len(packs[place]) == 1 for place in places) else 1
        for start in range(0, len(rows), max(limit, 1)):
            own = rows[start : start + max(limit, 1)]
            group = [prefixes[place] for place, _ in own]
            seen = attend_packs(model, group, [pack for _, pack in own])
            for (place, _), part in zip(own, seen):
                parts[place].append(part)
    return list(map(join_attention, parts))


def attend_packs(
    model: FrozenModel, prefixes: Sequence[Prefix], packs: Sequence[Pack]
) -> list[PhraseAttention]:
    """One pass over prefixes of one batch, see :func:`attend_prefixes`."""
    cache, prefix_mask, starts = share_cache(prefixes)
    texts = [[token for item in pack for token in item.input_ids] for pack in packs]
    spans = [place_spans(pack) for pack in packs]
    columns = [
        slice(start + item.image_columns.start, start + item.image_columns.stop)
        for start, item in zip(starts, prefixes)
    ]
    reader = model.build_row_reader(texts, spans, columns, prefixes[0].layers)
    placed = lay_out(packs, [item.next_position for item in prefixes])
    input_ids, positions, owners = placed.to(model.device, non_blocking=True)
    positions = positions.expand(len(prefixes[0].positions), -1, -1)
    mask = build_continuation_mask(owners, prefix_mask, model.dtype)
    layers = model.decode(cache, input_ids, positions, mask, reader)
    features = torch.stack([layer.to(model.device) for layer in layers])
    lengths = [count_tokens(pack) for pack in packs]
    is_whole = len(layers) == model.num_layers
    return [
        PhraseAttention(
            grid_maps=gather_grids(maps, prefix.image_input),
            text_features=[features[:, row, start:end] for start, end in own_spans],
            input_ids=list(input_ids[row, : sum(own)].split(own)),
            # Views, like the text features: they cost no memory of their own.
            hidden_states=list(features[-1, row, : sum(own)].split(own)) if is_whole else [],
        )
        for row, (prefix, own, own_spans, maps) in enumerate(
            zip(prefixes, lengths, spans, reader.finish())
        )
    ]


def count_tokens(pack: Pack) -> list[int]:
    """Tokens of each continuation."""
    return [len(item.input_ids) for item in pack]


def place_spans(pack: Pack) -> list[Span]:
    """Row ranges of all phrases of an image."""
    spans, start = [], 0
    for item in pack:
        spans += [(start + first, start + last) for first, last in item.token_spans]
        start += len(item.input_ids)
    return spans


def lay_out(packs: Sequence[Pack], next_positions: Sequence[int]) -> Tensor:
    """Token ids, positions and continuation numbers of all rows: int64 ``[3, B, R]`` on the CPU.

    The continuations of each image start at its ``next_positions``; rows are padded to R.
    """
    rows = max(sum(count_tokens(pack)) for pack in packs)
    placed = torch.zeros(3, len(packs), rows, dtype=torch.int64)
    placed[2] = _PADDING
    for row, (pack, position) in enumerate(zip(packs, next_positions)):
        start = 0
        for number, item in enumerate(pack):
            place = slice(start, start + len(item.input_ids))
            placed[0, row, place] = torch.tensor(item.input_ids)
            placed[1, row, place] = torch.arange(position, position + len(item.input_ids))
            placed[2, row, place] = number
            start = place.stop
    return placed


def split_into_packs(encoded: Sequence[EncodedContinuation], max_rows: int) -> Iterator[Pack]:
    """Continuations in order, in groups of at most ``max_rows`` tokens (but at least one)."""
    pack: Pack = []
    rows = 0
    for item in encoded:
        if pack and rows + len(item.input_ids) > max_rows:
            yield pack
            pack, rows = [], 0
        pack.append(item)
        rows += len(item.input_ids)
    if pack:
        yield pack
