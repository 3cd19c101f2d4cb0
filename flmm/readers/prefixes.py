"""What has been read: prefixes and their caches, of one image or of a batch.

Plans which images are read together, pads them, and gives one ``Prefix`` per image whose cache is a
view of the batch's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from flmm.records import Grid, ImageInput

PADDING_SIDES = ("right", "left")


@dataclass
class PrefixInput:
    """One image and prompt as the model is fed them: S token ids, placeholders expanded.

    ``positions`` are int64 ``[axes, S]`` on the CPU, ``image_columns`` reach from the first to the
    last image token.
    """

    input_ids: list[int]
    positions: Tensor
    image_columns: slice
    image_input: ImageInput

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass
class Prefix:
    """One image and prompt, read.

    Attributes:
        input_ids: ``[S]`` int64, image placeholders expanded.
        grids: the image tokens over the picture, finest grid first; columns within [0, S).
        image_columns: from the first to the last image token, within [0, S).
        cache: keys and values of the S tokens; no pass writes into it.
        next_position: where each continuation starts (the same on every axis).
        last_hidden_state: ``[D]``, of the last token, the output of the last layer that was run; of
            the very last one after the final norm.
        batch: what it was read with; its cache holds the memory of this one's.
        row: its place there.
        layers: how many of the model's first layers it was read with.
        whole: the same, read with all layers, once somebody needed that.
    """

    input_ids: Tensor
    grids: list[Grid]
    image_columns: slice
    cache: Any = field(repr=False)
    next_position: int
    last_hidden_state: Tensor = field(repr=False)
    image_input: ImageInput = field(repr=False)
    batch: PrefixBatch = field(repr=False)
    row: int
    layers: int
    whole: Prefix | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def positions(self) -> Tensor:
        """``[axes, S]`` int64."""
        return self.batch.positions[:, self.row, self.batch.spans[self.row]]

    @property
    def grid_hw(self) -> tuple[int, int]:
        """(h, w) of the finest grid."""
        return self.grids[0].size


@dataclass
class PrefixBatch:
    """Prefixes that were read in one pass, padded to one length.

    Attributes:
        input_ids: ``[B, S]`` int64.
        positions: ``[axes, B, S]`` int64.
        token_mask: ``[B, S]`` bool, false on padding.
        spans: per image where its tokens stand within [0, S).
    """

    input_ids: Tensor
    positions: Tensor
    token_mask: Tensor
    spans: list[slice]
    cache: Any = field(repr=False, default_factory=DynamicCache)

    @property
    def is_padded(self) -> bool:
        """Whether the images differ in length."""
        length = self.input_ids.shape[1]
        return any(span.stop - span.start < length for span in self.spans)

    def split(
        self, inputs: Sequence[PrefixInput], hidden_states: Tensor, layers: int
    ) -> list[Prefix]:
        """The prefixes of a batch that so many layers have read, the last giving ``[B, S, D]``."""
        return [
            Prefix(
                input_ids=self.input_ids[row, span],
                grids=[grid.shift(item.image_columns.start) for grid in item.image_input.grids],
                image_columns=item.image_columns,
                cache=view_cache(self.cache, row, span),
                next_position=int(item.positions.max()) + 1,
                # A copy: a view would hold the states of all tokens.
                last_hidden_state=hidden_states[row, span.stop - 1].clone(),
                image_input=item.image_input,
                batch=self,
                row=row,
                layers=layers,
            )
            for row, (item, span) in enumerate(zip(inputs, self.spans))
        ]


def pad_inputs(
    inputs: Sequence[PrefixInput], padding_side: str, padding_id: int, device: torch.device
) -> PrefixBatch:
    """Images as rows of one length, padded with any token that is no image placeholder."""
    length = max(map(len, inputs))
    starts = [length - len(item) if padding_side == "left" else 0 for item in inputs]
    spans = [slice(start, start + len(item)) for start, item in zip(starts, inputs)]
    input_ids = torch.full((len(inputs), length), padding_id)
    positions = torch.zeros(len(inputs[0].positions), len(inputs), length, dtype=torch.int64)
    token_mask = torch.zeros(len(inputs), length, dtype=torch.bool)
    for row, (item, span) in enumerate(zip(inputs, spans)):
        input_ids[row, span] = torch.tensor(item.input_ids)
        positions[:, row, span] = item.positions
        token_mask[row, span] = True
    return PrefixBatch(
        input_ids=input_ids.to(device, non_blocking=True),
        positions=positions.to(device, non_blocking=True),
        token_mask=token_mask.to(device, non_blocking=True),
        spans=spans,
    )


def plan_batches(
    lengths: Sequence[int], max_tokens: int, max_padding: float
) -> Iterator[list[int]]:
    """Which images of so many tokens are read together: those of similar lengths.

    Args:
        max_tokens: greatest padded size of a batch; a longer image has a batch of its own.
        max_padding: greatest share of padding in a batch, in [0, 1].

    Yields:
        places within ``lengths``, every one once, the longest first.
    """
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        size = (len(batch) + 1) * lengths[batch[0]] if batch else lengths[index]
        padding = 1 - (tokens + lengths[index]) / size
        if batch and (size > max_tokens or padding > max_padding):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch


def gather_grids(maps: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
    """Per grid ``[..., h, w]`` of maps ``[..., n]``, from the first image token to the last."""
    gathered = []
    for grid in grids:
        columns = grid.columns.flatten()
        if torch.equal(columns, torch.arange(maps.shape[-1])):  # row by row: a view will do
            gathered.append(maps.unflatten(-1, grid.size))
        else:
            gathered.append(maps[..., grid.columns.to(maps.device)])
    return gathered


class _HeldLayer(DynamicLayer):
    """Keys and values that are there already."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values = keys, values
        self.is_initialized = True


class _PassingLayer(_HeldLayer):
    """Shows a pass its new keys and values behind those of the prefix, and forgets them.

    Of the rows of the batch's layer only ``rows`` take part, ``None``: all.
    """

    def __init__(self, layer: Any, rows: Tensor | None) -> None:
        super().__init__(layer.keys, layer.values)
        self.rows = None if rows is None else rows.to(self.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of prefix and continuation, of this layer and this pass alone."""
        keys: Any = self.keys
        values: Any = self.values
        if self.rows is not None:
            keys, values = keys[self.rows], values[self.rows]
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def _build_cache(layers: Sequence[DynamicLayer]) -> DynamicCache:
    cache = DynamicCache()
    cache.layers = list(layers)
    return cache


def view_cache(cache: Any, row: int, span: slice) -> DynamicCache:
    """A cache of one row and some tokens of another, sharing memory.

    It grows by making new tensors: what it was made of stays as it is.
    """
    rows = slice(row, row + 1)
    return _build_cache(
        [
            _HeldLayer(layer.keys[rows, :, span], layer.values[rows, :, span])
            for layer in cache.layers
        ]
    )


def share_cache(prefixes: Sequence[Prefix]) -> tuple[DynamicCache, Tensor, list[int]]:
    """One cache for a pass over prefixes of one batch that is to leave nothing behind.

    Returns:
        the cache of one row per prefix, which does not grow; bool ``[B, S]``, false on padding;
        and at which column each prefix begins.
    """
    batch, rows = prefixes[0].batch, [item.row for item in prefixes]
    if len(prefixes) == 1:
        token_mask = batch.token_mask[rows[0], batch.spans[rows[0]]][None]
        layers = [_PassingLayer(layer, None) for layer in prefixes[0].cache.layers]
        return _build_cache(layers), token_mask, [0]
    starts = [batch.spans[row].start for row in rows]
    index, token_mask = None, batch.token_mask
    if rows != list(range(len(batch.spans))):
        index = torch.tensor(rows).to(token_mask.device, non_blocking=True)
        token_mask = token_mask[index]
    layers = [_PassingLayer(layer, index) for layer in batch.cache.layers]
    return _build_cache(layers), token_mask, starts
