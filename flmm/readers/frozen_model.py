"""A transformers model that is used and never trained: how it is held, locked and measured.

In: the model. Out: its sizes, and passes through it that one thread at a time runs in eval mode,
without gradient. Not its duty: what is fed.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flmm.readers.guard import find_guard
from flmm.readers.loading import TOY_NOTICE, is_embedded


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
    """Holds a model outside the module tree.

    ``parameters()``, ``state_dict()``, an optimiser, DDP and ``requires_grad_()`` of a parent do
    not see it; ``to()`` and ``cuda()`` move it, a deep copy shares it.

    Args:
        model: transformers model with a language head.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._held = _Held(model.eval().requires_grad_(False))
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
        return self.text_config.num_hidden_layers

    @property
    def num_heads(self) -> int:
        """Attention heads A of a layer."""
        return self.text_config.num_attention_heads

    @property
    def num_maps(self) -> int:
        """Channels L*A of the attention maps."""
        return self.num_layers * self.num_heads

    @property
    def num_grids(self) -> int:
        """Grids whose maps a mask head is given."""
        return 1

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

    def _run(self, part: Any, attention: str | None = None, **inputs: Any) -> Any:
        """One pass through a part of the model, while no other thread runs it.

        Args:
            part: of the model, or the whole.
            attention: the registered attention function that it is to run through; ``None``: the
                model's own.
            inputs: of ``part``.
        """
        return self._held.guard.run(part, attention, **inputs)


__all__ = ["FrozenModel", "frozen_call"]
