"""What a person sees of a run before its first iteration: a few lines; the log file has all.

In: mmengine's logger, and the runner. Out: environment, config and hooks in the file alone, and
lines that say config, data, device and where the file is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any, cast

import torch
from mmengine.device import get_device
from mmengine.runner import BaseLoop

if TYPE_CHECKING:
    from flmm.training.grounding_runner import GroundingRunner

# How mmengine's long messages begin, after lines of dashes, and those about its own inside.
_DETAILS = (
    "System environment:",
    "Config:\n",
    "Hooks will be executed in the following order:",
    "Distributed training is not used, all SyncBatchNorm",
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)


def hide_details(logger: logging.Logger) -> None:
    """Keep a run's environment, config and hooks from the terminal; its log file has them."""
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(lambda record: not is_detail(record.getMessage()))


def is_detail(message: str) -> bool:
    """Whether a message is one of those that nobody reads at the start of every run."""
    return message.lstrip("-\n ").startswith(_DETAILS)


def describe_run(runner: GroundingRunner, loops: Mapping[str, Any]) -> list[str]:
    """Config, sizes of the data, device and log file of a run.

    Args:
        runner: about to begin.
        loops: by what people call them; those that are not built are not used.
    """
    lines = [f"config: {runner.cfg.filename}"]
    sizes = [
        f"{name} {len(cast(Sized, loop.dataloader.dataset)):,} records"
        for name, loop in loops.items()
        if isinstance(loop, BaseLoop)
    ]
    lines.append(f"data: {', '.join(sizes)}")
    device = get_device()
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    lines.append(f"device: {device}{threads}, processes: {runner.world_size}")
    files = [item for item in runner.logger.handlers if isinstance(item, logging.FileHandler)]
    return lines + [f"log: {item.baseFilename} (config and environment in full)" for item in files]


__all__ = ["describe_run", "hide_details", "is_detail"]
