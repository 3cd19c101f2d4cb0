"""A model of which a part is frozen: always in eval mode, without gradient, in no state dict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

# Ends of the names of position frequencies, in segment-anything and in transformers.
_PHASES = ("positional_encoding_gaussian_matrix", "positional_embedding")


class PartlyFrozen(nn.Module):
    """A SAM of which what is frozen is in eval mode whatever ``train()`` is called on.

    It has no gradient and is left out of ``state_dict()``; loading a state dict without it is no
    error. ``sam.state_dict()`` still holds everything. ``frozen`` are beginnings of the names,
    within ``sam``, of what is frozen.
    """

    frozen: ClassVar[tuple[str, ...]]

    def __init__(self, sam: Any) -> None:
        super().__init__()
        self.sam = sam.eval()
        for _, weight in self.list_frozen():
            weight.requires_grad_(False)
        self.register_state_dict_post_hook(_drop_frozen)
        self.register_load_state_dict_post_hook(_forgive_frozen)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.sam.mask_decoder.iou_token.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sam.mask_decoder.iou_token.weight.device

    def train(self, mode: bool = True) -> PartlyFrozen:
        """Set the mode of everything but what is frozen, which stays in eval mode."""
        super().train(mode)
        for name, module in self.sam.named_modules():
            if f"{name}.".startswith(self.frozen):
                module.training = False
        return self

    def _list_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers within ``sam``, those that are tied under each of their names."""
        tensors = (self.sam.named_parameters, self.sam.named_buffers)
        return chain(*(named(remove_duplicate=False) for named in tensors))

    def list_frozen(self) -> list[tuple[str, Tensor]]:
        """Names within ``sam`` and values of what is frozen."""
        return [item for item in self._list_tensors() if item[0].startswith(self.frozen)]

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> PartlyFrozen:
        """Move or cast, but keep the position frequencies in float32: they are phases."""
        tensors = list(self._list_tensors())
        phases = {name: value.data for name, value in tensors if name.endswith(_PHASES)}
        super()._apply(fn, *args, **kwargs)
        for name, moved in self._list_tensors():
            if name in phases and moved.dtype != phases[name].dtype:
                moved.data = phases[name].to(moved.device)
        return self


def _drop_frozen(
    module: PartlyFrozen, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    """State-dict hook; torch's ``state_dict`` and mmengine's ``get_state_dict`` both run it."""
    beginnings = tuple(f"{prefix}sam.{name}" for name in module.frozen)
    for key in [key for key in state_dict if key.startswith(beginnings)]:
        del state_dict[key]


def _forgive_frozen(module: PartlyFrozen, incompatible_keys: Any) -> None:
    """Load hook: what is frozen is not missing (the hook is told no prefix)."""
    names = tuple(f"sam.{name}" for name, _ in module.list_frozen())
    missing = incompatible_keys.missing_keys
    missing[:] = [key for key in missing if not key.endswith(names)]
