"""Mixed precision without a GPU: bfloat16 autocast on CPU, where mmengine's wrapper refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


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
    """The config of ``AmpOptimWrapper`` as one of :class:`CpuAmpOptimWrapper`.

    Raises:
        ValueError: it asks for another dtype than bfloat16, the only one of CPU autocast.
    """
    adapted = {key: value for key, value in optim_wrapper.items() if key != "loss_scale"}
    dtype = str(adapted.pop("dtype", None) or "bfloat16").removeprefix("torch.")
    if dtype != "bfloat16":
        raise ValueError(
            f"optim_wrapper.dtype is {dtype}, but mixed precision on CPU is bfloat16 only: set "
            "--cfg-options optim_wrapper.dtype=bfloat16 or train on a GPU"
        )
    return {**adapted, "type": "CpuAmpOptimWrapper"}


__all__ = ["CpuAmpOptimWrapper", "adapt_amp_to_cpu"]
