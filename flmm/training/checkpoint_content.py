"""What a checkpoint holds: weights for everybody, and all that a training needs to go on.

In: a runner in the middle of its training. Out: a dict of tensors and plain values, laid out as
mmengine does it. Who calls, and when, is the runner's part.
"""

from __future__ import annotations

import time
from typing import Any

import mmengine
from mmengine.runner import Runner, weights_to_cpu
from mmengine.utils import apply_to
from torch import nn

from flmm.checkpoints.checkpoint_files import TRAINING_STATE


def collect_weights(
    runner: Runner, model: nn.Module, config_text: str, meta: dict[str, Any]
) -> dict[str, Any]:
    """What every checkpoint holds: ``meta``, ``state_dict`` and ``message_hub``.

    Args:
        model: whose weights are kept, without DDP around it.
        meta: ``epoch`` and ``iter``, and whatever else the caller knows.
    """
    written = {
        "cfg": config_text,
        "seed": runner.seed,
        "experiment_name": runner.experiment_name,
        "time": time.strftime("%Y%m%d_%H%M%S"),
        "mmengine_version": mmengine.__version__,
    }
    if hasattr(runner.train_dataloader.dataset, "metainfo"):
        written["dataset_meta"] = runner.train_dataloader.dataset.metainfo
    return {
        "meta": {**meta, **written},
        "state_dict": weights_to_cpu(model.state_dict()),
        "message_hub": _move_to_cpu(runner.message_hub.state_dict()),
    }


def collect_training(
    runner: Runner, processes: list[dict[str, Any]], save_param_scheduler: bool
) -> dict[str, Any]:
    """What a training needs to go on: optimiser, schedulers, its place, and its processes."""
    state = runner.train_loop.state_dict()
    content: dict[str, Any] = {
        "optimizer": _move_to_cpu(runner.optim_wrapper.state_dict()),
        TRAINING_STATE: {**state, "processes": processes, "saved_at": time.time_ns()},
    }
    schedulers = runner.param_schedulers if save_param_scheduler else None
    if isinstance(schedulers, dict):
        content["param_schedulers"] = {
            name: [item.state_dict() for item in items] for name, items in schedulers.items()
        }
    elif schedulers is not None:
        content["param_schedulers"] = [item.state_dict() for item in schedulers]
    return content


def _move_to_cpu(content: Any) -> Any:
    return apply_to(content, lambda item: hasattr(item, "cpu"), lambda item: item.cpu())
