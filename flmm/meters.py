"""Seconds and peak memory of a piece of work, on any device.

On a GPU torch counts the memory; on a CPU the kernel does (Linux: ``VmHWM`` of
``/proc/self/status``, which is set back first). A process that measures should have done nothing
large before.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything that was started on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_call(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, everything that it started on the device included."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


class PeakMemory:
    """Context that measures the ``extra_bytes`` of its body; ``None`` where nobody tells."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.extra_bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            synchronise(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before: int | None = torch.cuda.memory_allocated(self.device)
        else:
            self._before = _reset_resident_peak()
        return self

    def __exit__(self, *_: object) -> None:
        synchronise(self.device)
        peak = read_peak_bytes(self.device)
        if peak is not None and self._before is not None:
            self.extra_bytes = max(0, peak - self._before)


class LargestTensor(TorchDispatchMode):
    """Remembers shape and bytes of the largest tensor that an operation makes."""

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


def read_peak_bytes(device: torch.device) -> int | None:
    """The most that this process ever held there, or since :class:`PeakMemory` began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _read_kilobytes("/proc/self/status", "VmHWM")


def read_available_bytes(device: torch.device) -> int | None:
    """Memory that is free for a run; ``None`` where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _read_kilobytes("/proc/meminfo", "MemAvailable")


def _reset_resident_peak() -> int | None:
    """Give freed memory back, set the kernel's mark back, and tell what is resident now."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return _read_kilobytes("/proc/self/status", "VmRSS")


def _read_kilobytes(path: str, field: str) -> int | None:
    if not Path(path).exists():
        return None
    lines = Path(path).read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)
