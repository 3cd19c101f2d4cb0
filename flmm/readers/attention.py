"""Attention weights of a few rows, read while the model runs.

Merged over each phrase's tokens at once, layer by layer and chunk by chunk of rows: of the weights
``[B, A, R, S + R]`` never more than ``MAX_SCORES`` exist.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from flmm.readers.caches import STATE_KINDS, list_kinds
from flmm.records import Span

ROW_ATTENTION = "flmm_rows"
CHUNKED_ATTENTION = "flmm_chunks"  # the same, for a prefill that transformers' SDPA cannot do
MAX_SCORES = 2**24  # heads x rows x keys at once, 64 MiB in float32
# What layers hand to their attention and what changes no weight here: dropout is for training,
# windows are in the mask, the rest is for other kernels or for what the decoder returns.
HARMLESS = {
    *("dropout", "sliding_window", "position_ids", "is_causal"),
    *("use_cache", "output_attentions", "output_hidden_states"),
}


class RowReader:
    """Takes each layer's weights as they come and keeps the phrases' merged image columns.

    ``token_spans`` are per image the half-open ranges of the rows that are merged for each of its P
    phrases, of R ``rows``;
    ``image_columns`` the columns of its image tokens; ``layers`` the indices of the layers that
    have attention and are run. The maps are kept on ``device``.
    """

    def __init__(
        self,
        token_spans: list[list[Span]],
        image_columns: list[slice],
        rows: int,
        layers: Sequence[int],
        num_heads: int,
        token_merge: str,
        device: torch.device,
    ) -> None:
        self.image_columns = image_columns
        self.num_layers = len(layers)
        self.num_heads = num_heads
        self._places = {layer: place for place, layer in enumerate(layers)}
        channels = self.num_layers * num_heads
        self.maps = [
            torch.zeros(len(spans), channels, columns.stop - columns.start, device=device)
            for spans, columns in zip(token_spans, image_columns)
        ]
        self.merges = [TOKEN_MERGES[token_merge](spans, rows, device) for spans in token_spans]

    def read(self, layer_index: int, weights: Tensor, first_row: int = 0) -> None:
        """Merge float32 weights ``[B, A, r, S + R]``, r rows of one layer, into the maps."""
        place = self._places[layer_index]
        channels = slice(place * self.num_heads, (place + 1) * self.num_heads)
        for maps, merge, columns, own in zip(
            self.maps, self.merges, self.image_columns, weights.unbind()
        ):
            merge.add(maps[:, channels].transpose(0, 1), own[:, :, columns], first_row)

    def finish(self) -> list[Tensor]:
        """Per image the float32 maps ``[P, L*A, h*w]``, channel ``l*A + a``, of all rows read."""
        for maps, merge in zip(self.maps, self.merges):
            merge.finish(maps)
        return self.maps


class MeanMerge:
    """Mean over each phrase's rows: one matrix product per chunk, one division at the end."""

    def __init__(self, spans: list[Span], rows: int, device: torch.device) -> None:
        row = torch.arange(rows)
        starts, ends = torch.tensor(spans).T[..., None]
        self.members = ((starts <= row) & (row < ends)).float().to(device)  # [P, R]

    def add(self, merged: Tensor, rows: Tensor, first_row: int) -> None:
        """Add rows ``[A, r, h*w]``, the first of them being ``first_row``, to ``[A, P, h*w]``."""
        members = self.members[:, first_row : first_row + rows.shape[1]]
        merged += (members.to(rows.device) @ rows).to(merged.device)

    def finish(self, maps: Tensor) -> None:
        """From sums ``[P, ...]`` to means; at most 1, as the weights are."""
        maps /= self.members.sum(1)[:, None, None]


class MaxMerge:
    """The greatest weight of each phrase's rows, among non-negative ones."""

    def __init__(self, spans: list[Span], rows: int, device: torch.device) -> None:
        # A row that belongs to several phrases appears once for each.
        pairs = sorted((row, index) for index, span in enumerate(spans) for row in range(*span))
        self._rows = [row for row, _ in pairs]
        self._pairs = torch.tensor(pairs).T.to(device)

    def add(self, merged: Tensor, rows: Tensor, first_row: int) -> None:
        """As ``MeanMerge.add``; at most r rows are copied at once."""
        count = rows.shape[1]
        start = bisect.bisect_left(self._rows, first_row)
        end = bisect.bisect_left(self._rows, first_row + count)
        for own in self._pairs[:, start:end].to(rows.device).split(count, dim=1):
            candidates = rows[:, own[0] - first_row].to(merged.device)
            phrases = own[1][None, :, None].to(merged.device).expand_as(candidates)
            merged.scatter_reduce_(1, phrases, candidates, "amax")

    def finish(self, maps: Tensor) -> None:
        """Nothing is left to do."""


# "last" is the mean over fewer rows, those of the last word: the reader says which.
TOKEN_MERGES: dict[str, type[MeanMerge | MaxMerge]] = {
    "mean": MeanMerge,
    "max": MaxMerge,
    "last": MeanMerge,
}


def row_attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    row_reader: RowReader | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An ``AttentionInterface`` function: eager attention that hands its weights to a reader.

    Args:
        module: the attention layer; its ``layer_idx`` names the channels.
        query: ``[B, A, R, d]``.
        key: ``[B, K, S + R, d]``, K key-value heads; each serves A / K neighbouring heads.
        value: ``[B, K, S + R, d]``.
        attention_mask: additive ``[B, 1, R, S + R]``, with the layer's window in it.
        scaling: factor on the scores; ``None``: ``d ** -0.5``.
        softcap: the scores stay within plus and minus so much (Gemma 2).
        row_reader: takes the weights, softmaxed in float32.
        options: see ``HARMLESS``.

    Returns:
        ``[B, R, A, d]``, and ``None`` in place of the weights.

    Raises:
        ValueError: the layer hands over what may change the weights, such as sinks; or no mask.
    """
    unknown = sorted(
        name for name, given in options.items() if given is not None and name not in HARMLESS
    )
    if unknown or attention_mask is None:
        what = f"{', '.join(unknown)}, which flmm does not apply" if unknown else "no mask"
        raise ValueError(
            f"{type(module).__name__} hands its attention {what}: its maps would be wrong, read a "
            "model without it"
        )
    batch, heads, rows, width = query.shape
    query = query * (width**-0.5 if scaling is None else scaling)
    chunk = max(1, MAX_SCORES // (batch * heads * key.shape[2]))
    outputs = []
    for first in range(0, rows, chunk):
        part = slice(first, first + chunk)
        weights = _compute_weights(query[:, :, part], key, attention_mask[:, :, part], softcap)
        if row_reader is not None:
            row_reader.read(module.layer_idx, weights, first)
        outputs.append(_apply_weights(weights, value))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return output.transpose(1, 2).contiguous(), None


def _compute_weights(
    query: Tensor, key: Tensor, attention_mask: Tensor, softcap: float | None
) -> Tensor:
    """Float32 ``[B, A, r, S + R]`` of r rows."""
    batch, heads, rows, width = query.shape
    # The heads of a group share their keys: one product instead of repeated keys.
    grouped = query.reshape(batch, key.shape[1], -1, width)
    scores = (grouped @ key.transpose(2, 3)).view(batch, heads, rows, -1)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    return scores.add_(attention_mask).softmax(-1, dtype=torch.float32)


def _apply_weights(weights: Tensor, value: Tensor) -> Tensor:
    """``[B, A, r, d]``."""
    batch, heads, rows, columns = weights.shape
    grouped = weights.to(value.dtype).view(batch, value.shape[1], -1, columns)
    return (grouped @ value).view(batch, heads, rows, -1)


AttentionInterface.register(ROW_ATTENTION, row_attention_forward)
AttentionInterface.register(CHUNKED_ATTENTION, row_attention_forward)
AttentionMaskInterface.register(CHUNKED_ATTENTION, eager_mask)  # one for all heads


def build_continuation_mask(
    sequence_index: Tensor, prefix_mask: Tensor, dtype: torch.dtype, rows: int | None = None
) -> Tensor:
    """Additive mask of continuations packed behind prefixes.

    Args:
        sequence_index: ``[B, C]``, which continuation each token behind the prefix belongs to;
            padding has a number of its own.
        prefix_mask: bool ``[B, S]``, false on padding.
        dtype: of the model.
        rows: only the last so many tokens are fed, the others are in the cache; ``None``: all.

    Returns:
        ``[B, 1, rows, S + C]``: 0 on the prefix and on the row's own continuation up to the row.
    """
    columns = torch.arange(sequence_index.shape[1], device=sequence_index.device)
    first = 0 if rows is None else len(columns) - rows
    same = sequence_index[:, first:, None] == sequence_index[:, None, :]
    visible = same & (columns[None, :] <= columns[first:, None])
    prefix = prefix_mask[:, None].expand(-1, visible.shape[1], -1)
    hidden = torch.cat([prefix, visible], dim=2).logical_not_()
    mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    return mask.masked_fill_(hidden, float("-inf"))[:, None]


def build_layer_masks(mask: Tensor, text_config: Any) -> Any:
    """What each kind of layer may see, of an additive mask ``[B, 1, R, K]`` of full attention.

    Windows and chunks count tokens as if a row stood alone behind its prefix: a key's distance is
    the number of visible keys behind it, so that padding and sisters need no bookkeeping.
    A mask for each of the kinds (layers without attention take none: ``None``), or the one mask
    where there is a single kind.
    """
    kinds = sorted(set(list_kinds(text_config)))
    masks = {kind: _restrict(mask, kind, text_config) for kind in kinds}
    return masks[kinds[0]] if len(kinds) == 1 else masks


def _restrict(mask: Tensor, kind: str, text_config: Any) -> Tensor | None:
    """The mask of one kind of layer."""
    if kind in STATE_KINDS:
        return None
    if kind == "full_attention":
        return mask
    visible = mask == 0
    if kind == "sliding_attention":
        behind = visible.flip(-1).cumsum(-1).flip(-1) - 1
        near = behind < text_config.sliding_window
    elif kind == "chunked_attention":
        chunk = (visible.cumsum(-1) - 1) // text_config.attention_chunk_size
        near = chunk == chunk[..., -1:]
    else:
        raise ValueError(
            f"this {text_config.model_type} has layers of the kind {kind!r}, which flmm does not "
            "read: give a model with full, sliding, chunked or linear attention"
        )
    return mask.masked_fill(~near, float("-inf"))
