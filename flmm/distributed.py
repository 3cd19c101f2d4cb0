"""Several processes, with or without GPUs.

mmengine's ``init_dist`` selects a CUDA device in every process and fails where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as torch_dist
from mmengine import dist

Value = TypeVar("Value")


def init_processes(launcher: str, backend: str = "nccl", **kwargs: Any) -> None:
    """Join the other processes of this run; does nothing for "none" or when joined already.

    Args:
        backend: for GPUs; without them processes talk through gloo.
        **kwargs: of ``torch.distributed.init_process_group``; ``timeout`` in seconds.
    """
    if launcher == "none" or dist.is_distributed():
        return
    backend = backend if torch.cuda.is_available() else "gloo"
    if launcher == "pytorch" and not torch.cuda.is_available():
        if "timeout" in kwargs:
            kwargs["timeout"] = timedelta(seconds=kwargs["timeout"])
        torch_dist.init_process_group(backend=backend, **kwargs)
    else:
        dist.init_dist(launcher, backend, **kwargs)


def call_in_main(call: Callable[[], Value]) -> Value:
    """What a call gives in the main process, which alone makes it; every process gets it."""
    values: list[Any] = [call() if dist.is_main_process() else None]
    dist.broadcast_object_list(values)
    return values[0]
