"""What a person sees of a run before its first iteration: a few lines; the log file has all."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sized
from functools import partial
from typing import Any, cast

import torch
from mmengine.device import get_device
from mmengine.runner import BaseLoop, Runner

from flmm.files import is_disk_full

# How mmengine's long messages begin, after lines of dashes, and those about its own inside.
_DETAILS = (
    "System environment:",
    "Config:\n",
    "Hooks will be executed in the following order:",
    "Distributed training is not used, all SyncBatchNorm",
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)


def arrange_handlers(logger: logging.Logger) -> None:
    """Keep details from the terminal, and let a log file that finds no room stop the run."""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            vars(handler)["handleError"] = partial(_handle_error, handler.handleError)
        else:
            handler.addFilter(
                lambda record: not record.getMessage().lstrip("-\n ").startswith(_DETAILS)
            )


def _handle_error(handle: Callable[[logging.LogRecord], None], record: logging.LogRecord) -> None:
    """An error of a log handler's own is only printed; a full disk stops the run."""
    if is_disk_full(sys.exc_info()[1]):
        raise
    handle(record)


def describe_run(runner: Runner, loops: Mapping[str, Any]) -> list[str]:
    """Config, sizes of the data of the loops that are built, device and log file of a run."""
    sizes = [
        f"{name} {len(cast(Sized, loop.dataloader.dataset)):,} records"
        for name, loop in loops.items()
        if isinstance(loop, BaseLoop)
    ]
    device = get_device()
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    files = [item for item in runner.logger.handlers if isinstance(item, logging.FileHandler)]
    return [
        f"config: {runner.cfg.filename}",
        f"data: {', '.join(sizes)}",
        f"device: {device}{threads}, processes: {runner.world_size}",
        *(f"log: {item.baseFilename} (config and environment in full)" for item in files),
    ]
