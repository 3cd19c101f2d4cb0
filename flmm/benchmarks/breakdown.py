"""What bounds a reading: seconds in the vision tower, the language model's layers and its head.

In: a reader and a piece of work. Out: seconds by part, told by forward hooks on the real modules,
and how busy the GPU was. Both come from runs of their own: hooks that wait for the device, or a
thread beside the work, would cost the timed runs a little.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from flmm.benchmarks.timing import synchronise, time_call
from flmm.readers.qwen import FrozenQwen

PARTS = ("vision", "layers", "head", "rest")
# NVML tells the share of busy time over its last sample, up to a second long.
_BUSY_SECONDS = 3.0
_SAMPLE_SECONDS = 0.1


def measure_parts(
    vlm: FrozenQwen, call: Callable[[], Any], device: torch.device
) -> dict[str, float]:
    """Seconds of one call, by part of the reader.

    Args:
        vlm: the reader that ``call`` uses.
        call: the work; a module that runs several times counts with all of them.
        device: of the reader; waited for at the border of every part.

    Returns:
        seconds by ``PARTS``: ``"vision"`` the vision tower with its merger, ``"layers"`` all
        layers of the language model (for phrases, the merging of their rows included), ``"head"``
        the language head, ``"rest"`` everything between them.
    """
    head = vlm.model.get_output_embeddings()
    modules: dict[str, list[nn.Module]] = {
        "vision": [vlm.model.model.visual],
        "layers": list(vlm.model.model.language_model.layers),
        "head": [] if head is None else [head],
    }
    seconds = dict.fromkeys(PARTS, 0.0)
    started: list[float] = []

    def start(*_: Any) -> None:
        synchronise(device)
        started.append(time.perf_counter())

    def stop_part(part: str) -> Callable[..., None]:
        def stop(*_: Any) -> None:
            synchronise(device)
            seconds[part] += time.perf_counter() - started.pop()

        return stop

    hooks = []
    try:
        for part, members in modules.items():
            for module in members:
                hooks.append(module.register_forward_pre_hook(start))
                hooks.append(module.register_forward_hook(stop_part(part)))
        total = time_call(call, device)
    finally:
        for hook in hooks:
            hook.remove()
    seconds["rest"] = total - sum(seconds.values())
    return seconds


def measure_utilization(
    call: Callable[[], Any],
    device: torch.device,
    read_percent: Callable[[torch.device], int] = torch.cuda.utilization,
    seconds: float = _BUSY_SECONDS,
) -> float | None:
    """How busy a GPU is while a call is repeated, in percent.

    Args:
        call: the work.
        device: that it runs on.
        read_percent: tells the present share; needs NVML (the package ``nvidia-ml-py``).
        seconds: the call is repeated for so long; what NVML tells in the first half, when its
            window still holds the time before, is left out.

    Returns:
        the mean; ``None`` where there is no GPU, or no NVML to ask.
    """
    if device.type != "cuda":
        return None
    try:
        read_percent(device)
    except (ImportError, RuntimeError):
        return None
    return _average_while(call, lambda: read_percent(device), device, seconds)


def _average_while(
    call: Callable[[], Any], read: Callable[[], float], device: torch.device, seconds: float
) -> float:
    """Mean of what ``read`` tells in the second half of a time in which ``call`` is repeated."""
    samples: list[tuple[float, float]] = []
    is_over = threading.Event()
    start = time.perf_counter()

    def sample() -> None:
        while not is_over.wait(_SAMPLE_SECONDS):
            samples.append((time.perf_counter() - start, read()))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        while time.perf_counter() - start < seconds:
            time_call(call, device)
    finally:
        is_over.set()
        thread.join()
    late = [value for moment, value in samples if moment >= seconds / 2]
    return sum(late) / len(late) if late else float(read())


__all__ = ["PARTS", "measure_parts", "measure_utilization"]
