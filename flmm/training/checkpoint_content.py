"""What a checkpoint holds: weights for everybody, and all that a training needs to go on.

In: a runner in the middle of its training. Out: a dict of tensors and plain values, laid out as
mmengine does it, and its file. Who calls, and when, is the runner's part.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmengine
import torch
from mmengine.runner import weights_to_cpu
from mmengine.utils import apply_to

from flmm.checkpoints.checkpoint_files import TRAINING_STATE, write_atomically

if TYPE_CHECKING:
    from flmm.training.grounding_runner import GroundingRunner


def collect_weights(
    runner: GroundingRunner, meta: dict[str, Any], by_epoch: bool
) -> dict[str, Any]:
    """What every checkpoint holds: ``meta``, ``state_dict`` and ``message_hub``.

    Args:
        runner: in its training loop.
        meta: of ``epoch`` and ``iter``, what the caller knows better.
        by_epoch: the epoch, not the iteration, is the one that is just done.
    """
    counted = {"epoch": runner.epoch + by_epoch, "iter": runner.iter + (not by_epoch)}
    written = {
        "cfg": runner.config_text,
        "seed": runner.seed,
        "experiment_name": runner.experiment_name,
        "time": time.strftime("%Y%m%d_%H%M%S"),
        "mmengine_version": mmengine.__version__,
    }
    if hasattr(runner.train_dataloader.dataset, "metainfo"):
        written["dataset_meta"] = runner.train_dataloader.dataset.metainfo
    return {
        "meta": {**counted, **meta, **written},
        "state_dict": weights_to_cpu(runner.trained_model.state_dict()),
        "message_hub": _move_to_cpu(runner.message_hub.state_dict()),
    }


def collect_training(
    runner: GroundingRunner, processes: list[dict[str, Any]], save_param_scheduler: bool
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


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        DiskFullError, OSError: see :func:`flmm.checkpoints.checkpoint_files.write_atomically`.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getbuffer())


def _move_to_cpu(content: Any) -> Any:
    return apply_to(content, lambda item: hasattr(item, "cpu"), lambda item: item.cpu())


__all__ = ["collect_training", "collect_weights", "write_checkpoint"]
