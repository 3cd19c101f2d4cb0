"""Attention weights of a few rows, read while the model runs.

In: the queries of a continuation against the keys of prefix and continuation. Out: per phrase
and head the weights on the image columns, merged over the phrase's tokens at once, layer by
layer: of ``[A, R, S + R]`` never more than one layer exists.
Not its duty: which tokens are fed, which may see which (the mask comes from outside).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from flmm.structures import Span

ROW_ATTENTION = "flmm_rows"
TOKEN_MERGES = ("mean", "max")


class RowReader:
    """Takes each layer's weights as they come and keeps the phrases' merged image columns.

    Args:
        token_spans: half-open row range of each of the P phrases.
        image_columns: columns of the image tokens, in row-major grid order.
        num_layers: attention layers L.
        num_heads: heads A.
        token_merge: ``"mean"`` or ``"max"`` over the rows of a phrase.
        device: where the maps are kept.

    Attributes:
        maps: float32 ``[P, L*A, h*w]``, channel ``l*A + a``.
    """

    def __init__(
        self,
        token_spans: list[Span],
        image_columns: slice,
        num_layers: int,
        num_heads: int,
        token_merge: str,
        device: torch.device,
    ) -> None:
        self.token_spans = token_spans
        self.image_columns = image_columns
        self.num_heads = num_heads
        self.token_merge = token_merge
        cells = image_columns.stop - image_columns.start
        shape = (len(token_spans), num_layers * num_heads, cells)
        self.maps = torch.empty(shape, dtype=torch.float32, device=device)

    def read(self, layer_index: int, weights: Tensor) -> None:
        """Merge the float32 weights ``[A, R, S + R]`` of one layer into ``maps``."""
        columns = weights[:, :, self.image_columns]
        channels = slice(layer_index * self.num_heads, (layer_index + 1) * self.num_heads)
        for phrase, (start, end) in enumerate(self.token_spans):
            rows = columns[:, start:end]
            merged = rows.mean(1) if self.token_merge == "mean" else rows.amax(1)
            self.maps[phrase, channels] = merged.to(self.maps.device)


def row_attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    row_reader: RowReader | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """An ``AttentionInterface`` function: eager attention that hands its weights to a reader.

    Args:
        module: the attention layer; its ``layer_idx`` names the channels.
        query: ``[1, A, R, d]``.
        key: ``[1, K, S + R, d]``, K key-value heads; each serves A / K neighbouring heads.
        value: ``[1, K, S + R, d]``.
        attention_mask: additive ``[1, 1, R, S + R]``.
        scaling: factor on the scores; ``None``: ``d ** -0.5``.
        row_reader: takes the weights, softmaxed in float32.

    Returns:
        ``[1, R, A, d]``, and ``None`` in place of the weights.
    """
    heads, rows, width = query.shape[1:]
    key_heads = key.shape[1]
    scaling = width**-0.5 if scaling is None else scaling
    grouped = query.reshape(1, key_heads, heads // key_heads * rows, width)
    scores = (grouped @ key.transpose(2, 3)) * scaling
    scores = scores.reshape(1, heads, rows, -1) + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32)
    if row_reader is not None:
        row_reader.read(module.layer_idx, weights[0])
    grouped = weights.to(value.dtype).reshape(1, key_heads, heads // key_heads * rows, -1)
    output = (grouped @ value).reshape(1, heads, rows, -1)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ROW_ATTENTION, row_attention_forward)


@contextmanager
def use_attention(config: Any, implementation: str) -> Iterator[None]:
    """Let the layers that share ``config`` attend through ``implementation``, then as before."""
    before = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = before


@contextmanager
def borrow_cache(cache: Any) -> Iterator[None]:
    """Let a pass write into a ``DynamicCache``, then put back what it held.

    Its layers grow by making new tensors, so that the old ones are still the prefix's, also
    after an error between two layers.
    """
    held = [(layer.keys, layer.values) for layer in cache.layers]
    try:
        yield
    finally:
        for layer, (keys, values) in zip(cache.layers, held):
            layer.keys, layer.values = keys, values


def build_continuation_mask(
    sequence_index: Tensor, prefix_length: int, dtype: torch.dtype
) -> Tensor:
    """Additive mask of continuations packed behind one prefix.

    Args:
        sequence_index: ``[R]``, which continuation each row belongs to.
        prefix_length: S.
        dtype: of the model.

    Returns:
        ``[1, 1, R, S + R]``: 0 on the prefix and on the row's own continuation up to the row,
        minus infinity on everything else.
    """
    same = sequence_index[:, None] == sequence_index[None, :]
    hidden = ~(same & torch.ones_like(same).tril())
    mask = torch.zeros(len(same), prefix_length + len(same), dtype=dtype, device=same.device)
    mask[:, prefix_length:].masked_fill_(hidden, float("-inf"))
    return mask[None, None]
