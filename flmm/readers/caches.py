"""What layers keep of tokens that were read: keys and values, or a state.

A cache grows by making new tensors: a view shares memory with what it was made of and never changes
it. Keys can be cut anywhere. A state, of a layer without attention, is known behind the last token
alone, and behind those that somebody asked to keep: whoever cuts a cache elsewhere is given the
longest part that is known, and feeds the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

# Kinds of layers without attention that are read exactly, as a config's ``layer_types`` names them.
STATE_KINDS = frozenset({"linear_attention"})


def list_kinds(text_config: Any) -> list[str]:
    """The kind of each layer of a decoder."""
    count = text_config.num_hidden_layers
    return list(getattr(text_config, "layer_types", None) or ["full_attention"] * count)[:count]


def find_attention_layers(text_config: Any) -> list[int]:
    """The L layers that have attention.

    Raises:
        ValueError: the last layer has none, or this transformers keeps states otherwise.
    """
    kinds = list_kinds(text_config)
    found = [index for index, kind in enumerate(kinds) if kind not in STATE_KINDS]
    if found[-1:] != [len(kinds) - 1]:
        raise ValueError(
            f"the last layer of this {text_config.model_type} has no attention, and flmm ends with "
            "a layer that has: give another model"
        )
    if len(found) < len(kinds) and not hasattr(LinearAttentionLayer, "activate_past_recording"):
        raise ValueError(
            f"this {text_config.model_type} has layers without attention, whose states this "
            "transformers keeps otherwise than flmm reads them: install transformers 5.23 or newer"
        )
    return found


def take_rows(tensor: Any, rows: Tensor | None) -> Tensor:
    """Rows of a batch, ``None``: all; a single row is repeated without a copy."""
    if rows is None:
        return tensor
    return tensor.expand(len(rows), *tensor.shape[1:]) if len(tensor) == 1 else tensor[rows]


class KeyLayer(DynamicLayer):
    """Keys and values ``[B, K, S, d]`` of a layer with attention."""

    def __init__(self, keys: Any = None, values: Any = None) -> None:
        super().__init__()
        if keys is not None:
            self.dtype, self.device = keys.dtype, keys.device
            self.keys, self.values = keys, values
            self.is_initialized = True

    def find_place(self, tokens: int) -> int:
        """How many of the first ``tokens`` tokens a view can end with: so many."""
        return tokens

    def keep(self, places: Collection[int]) -> None:
        """All that is known stays known."""

    def view(self, rows: slice, span: slice) -> KeyLayer:
        """Some rows and tokens, sharing memory."""
        if not self.is_initialized:  # a layer that was not run
            return KeyLayer()
        keys: Any = self.keys
        values: Any = self.values
        return KeyLayer(keys[rows, :, span], values[rows, :, span])

    def share(self, rows: Tensor | None) -> KeyLayer:
        """For one pass of some rows, which leaves nothing behind."""
        return _PassingKeys(self, rows) if self.is_initialized else KeyLayer()


class _PassingKeys(KeyLayer):
    """Shows a pass its new keys and values behind those of the prefix, and forgets them."""

    def __init__(self, layer: KeyLayer, rows: Tensor | None) -> None:
        super().__init__(layer.keys, layer.values)
        self.rows = None if rows is None else rows.to(self.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of prefix and continuation, of this layer and this pass alone."""
        keys, values = (take_rows(item, self.rows) for item in (self.keys, self.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


class StateLayer(LinearAttentionLayer):
    """The state of a layer without attention: its convolution's last columns, and what it recurs.

    Attributes:
        tokens: how many were read.
        kept: the two tensors behind earlier tokens, by their number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens = 0
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.record_past = True  # or the model writes into the convolution's columns

    @property
    def known(self) -> dict[int, tuple[Any, Any]]:
        """What is known, by the number of tokens."""
        return self.kept | {self.tokens: (self.conv_states[0], self.recurrent_states[0])}

    def find_place(self, tokens: int) -> int:
        """How many of the first ``tokens`` tokens a view can end with."""
        return max(place for place in self.known if place <= tokens) if self.tokens else tokens

    def keep(self, places: Collection[int]) -> None:
        """Keep what is known behind these tokens, also when more is read, and nothing else."""
        self.kept = {place: states for place, states in self.known.items() if place in places}

    def view(self, rows: slice, span: slice) -> StateLayer:
        """Some rows, behind the last token of ``span``, which must be known; sharing memory."""
        own = StateLayer()
        if not self.tokens:
            return own
        own.kept = {
            place - span.start: (columns[rows], recurrent[rows])
            for place, (columns, recurrent) in self.kept.items()
            if place <= span.stop
        }
        own.tokens = span.stop - span.start
        columns, recurrent = self.known[span.stop]
        own.conv_states[0], own.recurrent_states[0] = columns[rows], recurrent[rows]
        own.has_previous_state[0] = True
        return own

    def share(self, rows: Tensor | None) -> StateLayer:
        """For one pass of some rows, which leaves nothing behind."""
        return _PassingState(self, rows) if self.tokens else StateLayer()

    def update_conv_state(
        self,
        conv_states: Tensor,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **_: Any,
    ) -> Tensor:
        """New columns ``[B, C, R]``; gives them behind those that are kept of earlier tokens."""
        before, width = self.conv_states[0], conv_kernel_size or 0
        columns = conv_states if before is None else torch.cat([before, conv_states], dim=-1)
        padded = pad(columns, (max(width - columns.shape[-1], 0), 0))
        self.conv_states[0] = padded[..., -width:].clone()  # a view would hold them all
        self.has_previous_state[0] = True
        self.tokens += conv_states.shape[-1]
        return columns

    def update_recurrent_state(
        self, recurrent_states: Tensor, state_idx: int = 0, **_: Any
    ) -> Tensor:
        """The state behind the new tokens."""
        self.recurrent_states[0] = recurrent_states
        return recurrent_states


class _ChosenRows(dict[int, Any]):
    """Tensors of which a layer is shown some rows, when it comes to them."""

    def __init__(self, state: Any, rows: Tensor | None) -> None:
        super().__init__({0: state})
        self.rows = None if rows is None else rows.to(state.device)

    def __getitem__(self, index: int) -> Tensor:
        return take_rows(super().__getitem__(index), self.rows)


class _PassingState(StateLayer):
    """Shows a pass the state behind the prefix, and forgets what becomes of it."""

    def __init__(self, layer: StateLayer, rows: Tensor | None) -> None:
        super().__init__()
        self.conv_states = _ChosenRows(layer.conv_states[0], rows)
        self.recurrent_states = _ChosenRows(layer.recurrent_states[0], rows)
        self.has_previous_state[0] = True

    def update_conv_state(self, conv_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """New columns behind those of the prefix."""
        before: Any = self.conv_states[0]
        return torch.cat([before, conv_states], dim=-1)

    def update_recurrent_state(self, recurrent_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """Forgotten."""
        return recurrent_states


def build_cache(text_config: Any) -> DynamicCache:
    """An empty cache, which keeps all keys also of layers that look through windows."""
    kinds = list_kinds(text_config)
    if not STATE_KINDS & set(kinds):
        return hold_layers([])  # which adds its layers itself
    return hold_layers([StateLayer() if kind in STATE_KINDS else KeyLayer() for kind in kinds])


def keep_states(cache: Any, places: Collection[int]) -> None:
    """Let views of a cache end behind these numbers of tokens, so far as that is known now."""
    for layer in cache.layers:
        layer.keep(places)


def view_cache(cache: Any, row: int, span: slice) -> DynamicCache:
    """A cache of one row and some tokens of another, sharing memory.

    It grows by making new tensors: what it was made of stays as it is. It ends with the last token
    of ``span``, or before, where a state is known; ``get_seq_length()`` says so.
    """
    rows = slice(row, row + 1)
    stop = min((layer.find_place(span.stop) for layer in cache.layers), default=span.stop)
    return hold_layers([layer.view(rows, slice(span.start, stop)) for layer in cache.layers])


def hold_layers(layers: Sequence[Any]) -> DynamicCache:
    """A cache of these layers."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = KeyLayer
    cache.layers = list(layers)
    return cache
