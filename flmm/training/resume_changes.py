"""Settings where mmengine's own way does not fit: another config at a resume, very short trainings.

Settings of now are taken, with two exceptions: random states are the checkpoint's, and another
optimiser is refused. Where a schedule changed it is replayed from its first step.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper

from flmm.config.checks import list_top_level_keys
from flmm.config.text import list_changes

# What says where a run is, not what it does.
_ELSEWHERE = {
    *("cfg", "experiment_name", "launcher", "load_from", "log_level", "resume", "runner_type"),
    *("eval_datasets", "eval_png_datasets", "selectors", "visual_cot", "weights", "work_dir"),
    *("test_cfg", "test_dataloader", "test_evaluator", "vis_backends", "visualizer"),
}
_SCHEDULE = ("optim_wrapper.optimizer.", "param_scheduler")
# Whose state in the checkpoint is of the optimiser as it was.
_OPTIMISER = tuple(
    f"optim_wrapper.{name}" for name in ("optimizer.type", "constructor", "paramwise_cfg")
)

Changes = dict[str, tuple[Any, Any]]
Settings = list[dict[str, Any]]


def list_resume_changes(before: str, now: str) -> Changes:
    """Settings that differ between the texts of two configs: dotted name -> (before, now).

    Raises:
        ValueError: the optimiser is another one, whose state the checkpoint has not.
    """
    changes = list_changes(before, now, list_top_level_keys() - _ELSEWHERE)
    for name, (old, new) in changes.items():
        if name.startswith(_OPTIMISER):
            raise ValueError(
                f"{name} is {new!r}, the checkpoint was written with {old!r}, whose state does not "
                "serve it: resume with the same, or begin a new training from the weights with "
                "--load-from CHECKPOINT and without --resume"
            )
    return changes


def is_other_schedule(changes: Mapping[str, Any]) -> bool:
    """Whether learning rates are to be computed anew, as if they had always been these."""
    return any(name.startswith(_SCHEDULE) for name in changes)


def format_resume_changes(changes: Changes) -> str:
    """What differs, and what is taken; nothing where nothing does."""
    if not changes:
        return ""
    lines = ["Resumed with other settings than the checkpoint's; those of now are taken:"]
    lines += [f"  {name}: {old!r} -> {new!r}" for name, (old, new) in changes.items()]
    if is_other_schedule(changes):
        lines.append("  (the schedule goes on as if it had been this one from the beginning)")
    if any(name.startswith("randomness") for name in changes):
        lines.append("  (random states stay the checkpoint's, whatever the seed)")
    return "\n".join(lines)


def format_resume_sizes(state: Mapping[str, Any], samples: int) -> str:
    """What a resume with other processes or samples a step cannot keep; else nothing."""
    then = state["samples_per_iteration"], state["world_size"]
    if then == (samples, get_world_size()):
        return ""
    return (
        f"Resumed with {get_world_size()} processes and {samples} samples a step; the checkpoint "
        f"was written with {then[1]} processes and {then[0]} samples. The epoch goes on after its "
        f"first {state['samples']} samples, iterations of an epoch-based training and its schedule "
        "are counted in the new steps; random states are kept only with the same number of "
        "processes. The results will differ from those of the run as it was begun"
    )


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
        epoch_length: iterations after which schedulers by epoch step; 0: they never do.
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
