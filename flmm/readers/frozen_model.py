"""A vision-language model that is used and never trained: how it is held, locked, measured and run.

Passes run in eval mode, without gradient, one thread at a time.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from flmm.readers.attention import ROW_ATTENTION, TOKEN_MERGES, RowReader, build_layer_masks
from flmm.readers.caches import build_cache, find_attention_layers, list_kinds
from flmm.readers.families import Family
from flmm.readers.guard import find_guard
from flmm.readers.layers import run_layers
from flmm.readers.loading import TOY_NOTICE, is_embedded
from flmm.readers.words import find_last_tokens
from flmm.records import ImageInput, Span


class _Held:
    """Keeps a frozen model out of its owner's modules; copies of the owner share it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.guard = find_guard(model)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Held, (self.model,)


def frozen_call(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method of a reader in eval mode, without gradient and in the reader's own dtype.

    A surrounding autocast is switched off: float16 would overflow a bfloat16 model.
    """

    @functools.wraps(method)
    def wrapper(self: FrozenModel, *args: Any, **kwargs: Any) -> Any:
        if self.model.training:
            self.model.eval()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return wrapper


class FrozenModel(nn.Module):
    """Holds a model outside the module tree, and runs it.

    ``parameters()``, ``state_dict()``, an optimiser, DDP and ``requires_grad_()`` of a parent do
    not see it; ``to()`` and ``cuda()`` move it, a deep copy shares it.

    Raises:
        ValueError: ``token_merge`` is not known, or layers of the model look in a way that is not
            read exactly.

    Attributes:
        attention_layers: indices of the L layers that have attention among all of the decoder's.
        keeps_states: whether others have none, whose state is known behind the last token alone:
            what goes on behind it cannot be packed beside others, nor go back.
    """

    def __init__(self, model: nn.Module, family: Family, token_merge: str = "mean") -> None:
        super().__init__()
        if token_merge not in TOKEN_MERGES:
            known = ", ".join(map(repr, TOKEN_MERGES))
            raise ValueError(f"token_merge {token_merge!r} is not known: give one of {known}")
        self.token_merge = token_merge
        self._held = _Held(model.eval().requires_grad_(False))
        self.family = family
        self.tokenizer = family.tokenizer
        build_layer_masks(torch.zeros(1, 1, 1, 1), self.text_config)  # or a kind is refused here
        self.attention_layers = find_attention_layers(self.text_config)
        self.keeps_states = len(self.attention_layers) < len(list_kinds(self.text_config))
        self._picture_inputs = set(inspect.signature(self.model.model.forward).parameters)
        self.train(False)

    @property
    def model(self) -> Any:
        """The frozen transformers model."""
        return self._held.model

    @property
    def notice(self) -> str:
        """What people must know beside every answer, a sentence; empty: nothing."""
        return TOY_NOTICE if is_embedded(self.model.name_or_path) else ""

    @property
    def lock(self) -> threading.RLock:
        """Held during every pass through the model, by whatever reader of it; re-entrant.

        Hold it around code of your own that runs or changes the model beside other threads.
        """
        return self._held.guard.lock

    @property
    def in_pass(self) -> bool:
        """Whether this very thread is in the middle of a pass through the model."""
        return self._held.guard.in_pass

    @property
    def text_config(self) -> Any:
        """Config of the language model."""
        return self.model.config.get_text_config()

    @property
    def num_layers(self) -> int:
        """Attention layers L."""
        return len(self.attention_layers)

    @property
    def num_heads(self) -> int:
        """Attention heads A of a layer."""
        return self.text_config.num_attention_heads

    @property
    def num_maps(self) -> int:
        """Channels L*A of the attention maps of a grid."""
        return self.num_layers * self.num_heads

    @property
    def num_grids(self) -> int:
        """Grids whose maps a mask head is given, the same for every picture."""
        return self.family.num_grids

    @property
    def num_channels(self) -> int:
        """Channels that a mask head is given."""
        return self.num_maps * self.num_grids

    @property
    def hidden_size(self) -> int:
        """Width D of the text features."""
        return self.text_config.hidden_size

    @property
    def max_tokens(self) -> int:
        """Tokens that the model's context holds: prefix, phrase, answer."""
        return int(self.text_config.max_position_embeddings)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the frozen weights."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the token embeddings."""
        return self.model.get_input_embeddings().weight.device

    def train(self, mode: bool = True) -> FrozenModel:
        """Stay in eval mode, whatever ``mode``."""
        self.model.eval()
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenModel:
        """What ``to()`` and ``cuda()`` call; a model spread over devices stays where it is."""
        if len(set((getattr(self.model, "hf_device_map", None) or {}).values())) < 2:
            self.model._apply(fn)
        return super()._apply(fn, recurse)

    def build_cache(self) -> Any:
        """An empty cache for a pass."""
        return build_cache(self.text_config)

    def locate(self, input_ids: Sequence[int], images: Sequence[ImageInput]) -> Tensor:
        """Int64 ``[axes, S]`` on the CPU: positions of tokens that hold all of ``images``."""
        return self.family.locate(self.model, input_ids, [list_inputs(item) for item in images])

    def collate(self, images: Sequence[ImageInput]) -> dict[str, Tensor]:
        """The model's inputs for pictures that are read in one pass, on its device.

        Raises:
            ValueError: one has another grid than this reader gives pictures.
        """
        if any(item.over_patches != self.family.over_patches for item in images):
            own, other = ("patches", "tokens")[:: 1 if self.family.over_patches else -1]
            raise ValueError(
                f"a picture was made ready for maps over {other}, the reader gives maps over "
                f"{own}: tell its image_options and the data's image_processor the same"
            )
        moved = [
            {name: self._move(value) for name, value in list_inputs(item).items()}
            for item in images
        ]
        inputs = self.family.collate(moved)
        return {name: value for name, value in inputs.items() if name in self._picture_inputs}

    def _move(self, value: Tensor) -> Tensor:
        # Converted there: a cast on the way would go through memory that is not pinned.
        value = value.to(self.device, non_blocking=True)
        return value.to(self.dtype) if value.is_floating_point() else value

    @frozen_call
    def read(
        self,
        cache: Any,
        input_ids: Tensor,
        positions: Tensor,
        images: Sequence[ImageInput],
        attention_mask: Tensor | None = None,
        layers: int | None = None,
    ) -> tuple[Tensor, list[ImageInput]]:
        """Feed tokens ``[B, R]`` that hold pictures, through the model's own attention.

        Args:
            cache: of what stands before; grows.
            positions: ``[axes, B, R]``.
            images: the pictures of these tokens, in order.
            attention_mask: bool ``[B, R]``, false on padding; ``None``: there is none to be seen.
            layers: stop behind so many of the layers with attention; ``None``: run all.

        Returns:
            ``[B, R, D]``, the output of the last layer that was run; of the very last one after
            the final norm; and the pictures, those ``over_patches`` with their ``cell_weights``.
        """
        last = self.num_layers if layers is None else layers
        inputs: dict[str, Any] = self.collate(images)
        weights: list[Tensor] = []
        if self.family.over_patches:
            inputs["cell_weights"] = weights
        fed = int(cache.get_seq_length())
        for name, types in self.family.token_types(input_ids).items():
            inputs[name] = pad(types, (fed, 0))  # they count from the beginning of the sequence
        (output,) = self._run(
            self.model.model,
            range(last - 1, last),
            input_ids=input_ids,
            **inputs,
            attention_mask=attention_mask,
            position_ids=_drop_single_axis(positions),
            past_key_values=cache,
            use_cache=True,
        )
        weighed = zip(images, weights)
        seen = [replace(item, cell_weights=own.to(self.device)) for item, own in weighed]
        return output, seen or list(images)

    def _run(
        self, call: Callable[..., Any], layers: range, attention: str | None = None, **inputs: Any
    ) -> list[Tensor]:
        """A pass of ``call`` that ends with the last of ``layers``: the output of each.

        They are counted among those with attention.
        """
        guard, stack = self._held.guard, self.model.get_decoder().layers
        own = [stack[self.attention_layers[index]] for index in layers]
        ends_early = layers.stop < self.num_layers
        return guard.run(
            functools.partial(run_layers, call, own, guard, ends_early), attention, **inputs
        )

    def build_row_reader(
        self,
        texts: list[list[int]],
        token_spans: list[list[Span]],
        image_columns: list[slice],
        layers: int,
    ) -> RowReader:
        """What takes the weights of a pass through the first ``layers``, see :class:`RowReader`.

        ``texts`` are its token ids per image.
        """
        merged = [
            [self.find_merged(ids, span) for span in spans]
            for ids, spans in zip(texts, token_spans)
        ]
        rows, heads, run = max(map(len, texts)), self.num_heads, self.attention_layers[:layers]
        return RowReader(*(merged, image_columns, rows, run, heads, self.token_merge, self.device))

    def find_merged(self, input_ids: Sequence[int], span: Span) -> Span:
        """Which tokens of a phrase's are merged into its maps: all, or those of its last word."""
        if self.token_merge != "last":
            return span
        first, last = find_last_tokens(self.tokenizer, input_ids[slice(*span)])
        return span[0] + first, span[0] + last

    @frozen_call
    def decode(
        self,
        cache: Any,
        input_ids: Tensor,
        positions: Tensor,
        attention_mask: Tensor | None = None,
        row_reader: RowReader | None = None,
    ) -> Sequence[Tensor]:
        """Feed text ``[B, R]`` at positions ``[axes, B, R]`` after the S tokens in the cache.

        Args:
            attention_mask: additive ``[B, 1, R, S + R]``; ``None``: causal, through the model's
                fastest attention.
            row_reader: where every layer's weights go, as many layers as it takes are run;
                ``None``: no weights are computed.

        Returns:
            with a reader k tensors ``[B, R, D]``, the outputs of the k layers that were run, of the
            very last one after the final norm; without one only that last one.
        """
        masks: Any = attention_mask
        if attention_mask is not None:
            masks = build_layer_masks(attention_mask, self.text_config)
        last = self.num_layers
        return self._run(
            self.model.get_decoder(),
            range(last - 1, last) if row_reader is None else range(row_reader.num_layers),
            # FlashAttention cannot take such a mask.
            attention=None if attention_mask is None else ROW_ATTENTION,
            input_ids=input_ids,  # no embeddings: some models look tokens up in every layer
            attention_mask=masks,
            position_ids=_drop_single_axis(positions),
            past_key_values=cache,
            use_cache=True,
            **({} if row_reader is None else {"row_reader": row_reader}),
        )

    @frozen_call
    def score(self, hidden_states: Tensor) -> Tensor:
        """Float32 logits ``[N, V]`` of the tokens that follow ``[N, D]``."""
        logits = self.model.get_output_embeddings()(hidden_states).float().to(self.device)
        cap = getattr(self.text_config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap


def list_inputs(image: ImageInput) -> dict[str, Tensor]:
    """All that the processor made of a picture, by name."""
    return {"pixel_values": image.pixel_values, **image.inputs}


def _drop_single_axis(positions: Tensor) -> Tensor:
    """As decoders take them: ``[B, R]`` where there is one axis, else ``[axes, B, R]``."""
    return positions[0] if len(positions) == 1 else positions
