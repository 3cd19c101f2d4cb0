"""The learning rate of a training that goes on with steps of another size.

In: schedulers as built for the new size, and how many of its steps are done. Out: the optimiser and
the schedulers as they would be after these steps. Where nothing changed the saved state is loaded
instead, which is mmengine's part.
"""

from __future__ import annotations

import warnings
from typing import Any

from mmengine.optim import OptimWrapper

Settings = list[dict[str, Any]]


def read_settings(optim_wrapper: OptimWrapper) -> Settings:
    """Learning rate and whatever else a scheduler may set, per group of parameters."""
    return [
        {key: value for key, value in group.items() if key != "params"}
        for group in optim_wrapper.param_groups
    ]


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
        iterations_per_epoch: after so many the schedulers by epoch step.
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
            ended = by_epoch if iteration % iterations_per_epoch == 0 else []
            for scheduler in [*by_iteration, *ended]:
                scheduler.step()


__all__ = ["read_settings", "replay_schedulers"]
