"""A training that goes on with other settings than its checkpoint's: what is taken, what is not.

In: the config that a checkpoint holds, as text, and the present one. Out: what differs, words for
it, and whether the learning rate must be computed anew. Settings of now are taken, with two
exceptions: random states are the checkpoint's, and another optimiser is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
_OTHER_OPTIMISER = (
    "optim_wrapper.optimizer.type",
    "optim_wrapper.constructor",
    "optim_wrapper.paramwise_cfg",
)

Changes = dict[str, tuple[Any, Any]]


def list_resume_changes(before: str, now: str) -> Changes:
    """Settings of a training that differ from its checkpoint's: dotted name -> (before, now).

    Args:
        before: the config's text in the checkpoint.
        now: the present one's.

    Raises:
        ValueError: the optimiser is another one, whose state the checkpoint has not.
    """
    changes = list_changes(before, now, list_top_level_keys() - _ELSEWHERE)
    for name, (old, new) in changes.items():
        if name.startswith(_OTHER_OPTIMISER):
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
    """What differs, and what is taken."""
    lines = ["Resumed with other settings than the checkpoint's; those of now are taken:"]
    lines += [f"  {name}: {old!r} -> {new!r}" for name, (old, new) in changes.items()]
    if is_other_schedule(changes):
        lines.append("  (the schedule goes on as if it had been this one from the beginning)")
    if any(name.startswith("randomness") for name in changes):
        lines.append("  (random states stay the checkpoint's, whatever the seed)")
    return "\n".join(lines)


__all__ = ["format_resume_changes", "is_other_schedule", "list_resume_changes"]
