"""What a person sees of a run before its first iteration: a few lines; the log file has all.

In: mmengine's logger, and the runner. Out: environment, config and hooks in the file alone, lines
that say config, data, device and where the file is, and a full disk told like any other.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sized
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
            vars(handler)["handleError"] = _stop_at_full_disk(handler.handleError)
        else:
            handler.addFilter(
                lambda record: not record.getMessage().lstrip("-\n ").startswith(_DETAILS)
            )


def _stop_at_full_disk(
    handle: Callable[[logging.LogRecord], None],
) -> Callable[[logging.LogRecord], None]:
    """What a log handler does with an error of its own: a full disk is not only printed."""

    def handle_error(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if error is not None and is_disk_full(error):
            raise error
        handle(record)

    return handle_error


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
