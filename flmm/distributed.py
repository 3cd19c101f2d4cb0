"""Several processes, with or without GPUs.

mmengine's ``init_dist`` selects a CUDA device in every process and fails where there is none;
here processes without a GPU talk through gloo.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as torch_dist
from mmengine import dist


def init_processes(launcher: str, backend: str = "nccl", **kwargs: Any) -> None:
    """Join the other processes of this run; does nothing for "none" or when joined already.

    Args:
        backend: for GPUs.
        **kwargs: of ``torch.distributed.init_process_group``; ``timeout`` in seconds, as mmengine
            takes it.
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
