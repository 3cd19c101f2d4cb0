"""Opt-ins for speed: mixed precision where there is no GPU, and a compiled mask head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from flmm.masks import UNetHead


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """mmengine's ``OptimWrapper`` with the forward pass under CPU autocast in bfloat16.

    bfloat16 has float32's range, so that no loss scaling is needed.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of the forward pass in training."""
        with super().optim_context(model), torch.autocast("cpu", dtype=torch.bfloat16):
            yield


def adapt_amp_to_cpu(optim_wrapper: dict[str, Any]) -> dict[str, Any]:
    """The config of ``AmpOptimWrapper``, which needs a GPU, as one of :class:`CpuAmpOptimWrapper`.

    Raises:
        ValueError: it asks for another dtype than bfloat16.
    """
    adapted = {key: value for key, value in optim_wrapper.items() if key != "loss_scale"}
    dtype = str(adapted.pop("dtype", None) or "bfloat16").removeprefix("torch.")
    if dtype != "bfloat16":
        raise ValueError(
            f"optim_wrapper.dtype is {dtype}, but mixed precision on CPU is bfloat16 only: set "
            "--cfg-options optim_wrapper.dtype=bfloat16 or train on a GPU"
        )
    return {**adapted, "type": "CpuAmpOptimWrapper"}


def compile_mask_head(model: nn.Module, settings: bool | dict[str, Any]) -> None:
    """Compile the convolutions of a grounder's mask head, in place, when each is first called.

    mmengine's own ``compile`` would compile the whole step, frozen reader and losses included.
    Block by block and with dynamic shapes: pictures differ in their number of phrases and in the
    sides of their maps. Parameters, their names and checkpoints stay what they are.

    Args:
        settings: the config's ``compile_mask_head``: false, true, or ``torch.compile``'s arguments.

    Raises:
        TypeError: the model has no mask head of flmm's, or the settings are neither.
    """
    if settings is False:
        return
    if not isinstance(settings, (bool, dict)):
        raise TypeError(
            f"compile_mask_head is {settings!r}: give True, False, or a dict of torch.compile's "
            "arguments"
        )
    head = getattr(model, "mask_head", None)
    if not isinstance(head, UNetHead):
        raise TypeError(
            f"compile_mask_head compiles a UNetHead, {type(model).__name__} has "
            f"{'no mask head' if head is None else type(head).__name__}: leave the key out"
        )
    options = {"dynamic": True} | (settings if isinstance(settings, dict) else {})
    for block in (*head.encoder, *head.decoder):
        block.compile(**options)
    told = "The mask head is compiled: its first iterations take minutes, not seconds"
    print_log(told, logger="current")
