"""Schedules where mmengine's own do not fit: few steps, or a training that goes on otherwise.

In: schedulers' configs and the number of steps. Out: those that have steps to do. Or: schedulers as
built for other steps or other settings, and how many steps are done; the optimiser and the
schedulers as they would be after these. Where nothing changed the saved state is loaded instead,
which is mmengine's part.
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


def drop_short_schedules(
    cfgs: Sequence[Any], epoch_length: int
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Schedulers that have steps to do, and those that have none or, of a ramp, one.

    On a few pictures 3 % of the training are no whole step. mmengine refuses a schedule without
    steps, and a ramp of one step never arrives: the learning rate would stay at its first value.

    Args:
        cfgs: configs of schedulers, or schedulers.
        epoch_length: iterations of an epoch.
    """
    kept: list[Any] = []
    dropped: list[dict[str, Any]] = []
    for cfg in cfgs:
        if not isinstance(cfg, dict) or cfg.get("end") is None:
            kept.append(cfg)
            continue
        unit = epoch_length if cfg.get("convert_to_iter_based") else 1
        steps = int(cfg["end"] * unit) - int(cfg.get("begin", 0) * unit)
        is_ramp = str(cfg.get("type", "")).startswith("Linear")
        (dropped if steps < (2 if is_ramp else 1) else kept).append(cfg)
    return kept, dropped


def replay_schedulers(
    schedulers: list[Any],
    optim_wrapper: OptimWrapper,
    settings: Settings,
    iterations: int,
    iterations_per_epoch: int,
) -> None:
    """Step schedulers that were just built as often as the training would have done.

    Args:
        schedulers: mmengine's, all of one optimiser.
        optim_wrapper: its wrapper.
        settings: what :func:`read_settings` gave when the schedulers were just built.
        iterations: steps that are done.
        iterations_per_epoch: after so many the schedulers by epoch step; 0: they never do.
    """
    for group, values in zip(optim_wrapper.param_groups, settings):
        group.update(values)
    by_iteration = [item for item in schedulers if not item.by_epoch]
    by_epoch = [
        item for item in schedulers if item.by_epoch and not getattr(item, "need_val_args", False)
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `scheduler.step")
        for iteration in range(1, iterations + 1):
            has_ended = iterations_per_epoch > 0 and iteration % iterations_per_epoch == 0
            ended = by_epoch if has_ended else []
            for scheduler in [*by_iteration, *ended]:
                scheduler.step()


__all__ = ["drop_short_schedules", "read_settings", "replay_schedulers"]
