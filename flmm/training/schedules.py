"""Schedules where mmengine's own do not fit: few steps, or a training that goes on otherwise.

In: schedulers' configs and the number of steps. Out: those that have steps to do. Or: schedulers as
built for other settings, and how many steps are done; the optimiser and the schedulers as they
would be after these. Where nothing changed mmengine loads the saved state instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from mmengine.optim import OptimWrapper

Settings = list[dict[str, Any]]


def read_settings(optim_wrapper: OptimWrapper) -> Settings:
    """Learning rate and whatever else a scheduler may set, per group of parameters."""
    return [
        {key: value for key, value in group.items() if key != "params"}
        for group in optim_wrapper.param_groups
    ]


def drop_short_schedules(cfgs: Sequence[Any], epoch_length: int) -> tuple[list[Any], list[Any]]:
    """Schedulers that have steps to do, and those that have none or, of a ramp, one.

    On a few pictures 3 % of the training are no whole step. mmengine refuses a schedule without
    steps, and a ramp of one step never arrives: the learning rate would stay at its first value.

    Args:
        epoch_length: iterations of an epoch.
    """
    kept: list[Any] = []
    dropped: list[Any] = []
    for cfg in cfgs:
        unit = epoch_length if cfg.get("convert_to_iter_based") else 1
        least = 2 if str(cfg["type"]).startswith("Linear") else 1
        end = cfg.get("end")
        is_short = end is not None and int(end * unit) - int(cfg.get("begin", 0) * unit) < least
        (dropped if is_short else kept).append(cfg)
    return kept, dropped


def replay_schedulers(
    schedulers: list[Any],
    optim_wrapper: OptimWrapper,
    settings: Settings,
    iterations: int,
    epoch_length: int,
) -> None:
    """Step schedulers that were just built as often as the training would have done.

    Args:
        settings: what :func:`read_settings` gave when the schedulers were just built.
        iterations: steps that are done.
        epoch_length: after so many the schedulers by epoch step; 0: they never do.
    """
    for group, values in zip(optim_wrapper.param_groups, settings):
        group.update(values)
    by_epoch = [
        item for item in schedulers if item.by_epoch and not getattr(item, "need_val_args", False)
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `scheduler.step")
        for iteration in range(1, iterations + 1):
            has_ended = epoch_length > 0 and iteration % epoch_length == 0
            steps = [item for item in schedulers if not item.by_epoch]
            for scheduler in [*steps, *(by_epoch if has_ended else [])]:
                scheduler.step()
