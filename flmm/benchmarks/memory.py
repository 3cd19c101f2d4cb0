"""Peak memory of a piece of work, and the largest tensor it makes.

On a GPU torch counts; on a CPU the kernel does (Linux: ``VmHWM`` of ``/proc/self/status``, which is
set back first). A process that measures should have done nothing large before.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory:
    """Context that measures the extra memory of its body.

    Attributes:
        extra_bytes: peak within the body less what was held before it; ``None`` where the system
            does not tell.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.extra_bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before: int | None = torch.cuda.memory_allocated(self.device)
        else:
            self._before = _reset_resident_peak()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            peak: int | None = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = _read_status("VmHWM")
        if peak is not None and self._before is not None:
            self.extra_bytes = max(0, peak - self._before)


class LargestTensor(TorchDispatchMode):
    """Remembers the shape and size of the largest tensor that an operation makes.

    Attributes:
        shape: of that tensor.
        bytes: of its values; a view counts what it shows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = ()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            # A view of weights (tied, transposed) is nothing that was made here.
            if isinstance(leaf, Tensor) and leaf._base is None and not func.is_view:
                size = leaf.numel() * leaf.element_size()
                if size > self.bytes:
                    self.bytes, self.shape = size, tuple(leaf.shape)
        return output


def read_available_bytes(device: torch.device) -> int | None:
    """Memory that is free for a run; ``None`` where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _read_kilobytes(Path("/proc/meminfo"), "MemAvailable")


def _reset_resident_peak() -> int | None:
    """Give freed memory back, set the kernel's mark back, and tell what is resident now."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return _read_status("VmRSS")


def _read_status(field: str) -> int | None:
    return _read_kilobytes(Path("/proc/self/status"), field)


def _read_kilobytes(path: Path, field: str) -> int | None:
    if not path.exists():
        return None
    lines = path.read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)


__all__ = ["LargestTensor", "PeakMemory", "read_available_bytes"]
