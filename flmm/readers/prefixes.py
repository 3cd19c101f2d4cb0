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

from flmm.readers.caches import hold_layers, view_cache
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

    def cut(self, length: int) -> PrefixInput:
        """Its first tokens, which hold the image."""
        ids, positions = self.input_ids[:length], self.positions[:, :length]
        return PrefixInput(ids, positions, self.image_columns, self.image_input)


@dataclass
class Prefix:
    """One image and prompt, read.

    Attributes:
        input_ids: ``[S]`` int64, image placeholders expanded.
        grids: the image tokens over the picture, finest grid first; columns within [0, S).
        image_columns: from the first to the last image token, within [0, S).
        cache: keys and values of the S tokens, or states; no pass writes into it.
        next_position: where each continuation starts (the same on every axis).
        last_hidden_state: ``[D]``, of the last token, the output of the last layer that was run; of
            the very last one after the final norm.
        batch: what it was read with; its cache holds the memory of this one's.
        row: its place there.
        layers: how many of the model's first layers it was read with.
        again: its first tokens, so many, read again with all layers, once somebody needed that.
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
    again: dict[int, Prefix] = field(default_factory=dict, repr=False)

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
        cache: of all rows; empty before they are read.
    """

    input_ids: Tensor
    positions: Tensor
    token_mask: Tensor
    spans: list[slice]
    cache: Any = field(repr=False)

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
    inputs: Sequence[PrefixInput],
    padding_side: str,
    padding_id: int,
    cache: Any,
    device: torch.device,
) -> PrefixBatch:
    """Images as rows of one length, padded with any token that is no image placeholder.

    ``cache`` is empty; a pass fills it.
    """
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
        cache=cache,
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


def gather_grids(maps: Tensor, image: ImageInput) -> list[Tensor]:
    """Per grid ``[..., h, w]`` of maps ``[..., n]``, from the first image token to the last."""
    if image.cell_weights is not None:
        sizes = [grid.columns.numel() for grid in image.grids]
        parts = (maps @ image.cell_weights.to(maps)).split(sizes, -1)
        return [part.unflatten(-1, grid.size) for part, grid in zip(parts, image.grids)]
    gathered = []
    for grid in image.grids:
        columns = grid.columns.flatten()
        if torch.equal(columns, torch.arange(maps.shape[-1])):  # row by row: a view will do
            gathered.append(maps.unflatten(-1, grid.size))
        else:
            gathered.append(maps[..., grid.columns.to(maps.device)])
    return gathered


def share_cache(prefixes: Sequence[Prefix]) -> tuple[Any, Tensor, list[int]]:
    """One cache for a pass over prefixes of one batch that is to leave nothing behind.

    Returns:
        the cache of one row per prefix, which does not grow; bool ``[B, S]``, false on padding;
        and at which column each prefix begins.
    """
    batch, rows = prefixes[0].batch, [item.row for item in prefixes]
    if len(set(rows)) == 1:  # one prefix, for one row or for several
        token_mask = batch.token_mask[rows[0], batch.spans[rows[0]]].expand(len(rows), -1)
        repeated = torch.zeros(len(rows), dtype=torch.int64) if rows[1:] else None
        layers = [layer.share(repeated) for layer in prefixes[0].cache.layers]
        return hold_layers(layers), token_mask, [0] * len(rows)
    starts = [batch.spans[row].start for row in rows]
    index, token_mask = None, batch.token_mask
    if rows != list(range(len(batch.spans))):
        index = torch.tensor(rows).to(token_mask.device, non_blocking=True)
        token_mask = token_mask[index]
    layers = [layer.share(index) for layer in batch.cache.layers]
    return hold_layers(layers), token_mask, starts
