"""What a checkpoint holds: weights for everybody, and all that a training needs to go on.

Tensors and plain values, laid out as mmengine does it, which ``torch.load(weights_only=True)``
gives back. Where in the data a training stands is the loops' knowledge.
"""

from __future__ import annotations

import random
import time
from typing import Any

import mmengine
import numpy as np
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner, weights_to_cpu
from mmengine.utils import apply_to
from torch import Tensor, nn

from flmm.checkpoints.checkpoint import TRAINING_STATE


def collect_weights(
    runner: Runner, model: nn.Module, config_text: str, meta: dict[str, Any]
) -> dict[str, Any]:
    """What every checkpoint holds: ``meta``, ``state_dict`` and ``message_hub``."""
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
    if save_param_scheduler and runner.param_schedulers is not None:
        content["param_schedulers"] = [item.state_dict() for item in runner.param_schedulers]
    return content


def _move_to_cpu(content: Any) -> Any:
    return apply_to(content, lambda item: hasattr(item, "cpu"), lambda item: item.cpu())


def capture_random_state() -> dict[str, Any]:
    """The states of the random generators of Python, numpy, torch and the present GPU."""
    version, words, gauss = random.getstate()
    state: Any = np.random.get_state(legacy=False)
    key = torch.from_numpy(state["state"]["key"].astype(np.int64))
    return {
        "python": (version, torch.tensor(words), gauss),
        "numpy": {**state, "state": {"key": key, "pos": int(state["state"]["pos"])}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the random generators to what :func:`capture_random_state` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    place = state["numpy"]["state"]
    key = place["key"].numpy().astype(np.uint32)
    np.random.set_state({**state["numpy"], "state": {**place, "key": key}})
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def capture_gradients(optim_wrapper: Any) -> list[Tensor | None] | None:
    """Gradients of an accumulation that is not finished; ``None`` where none is under way."""
    if not isinstance(optim_wrapper, OptimWrapper) or optim_wrapper.should_update():
        return None
    gradients = [weight.grad for weight in _list_weights(optim_wrapper)]
    return [None if gradient is None else gradient.cpu() for gradient in gradients]


def restore_gradients(optim_wrapper: Any, gradients: list[Tensor | None]) -> None:
    """Put back what :func:`capture_gradients` gave."""
    for weight, gradient in zip(_list_weights(optim_wrapper), gradients):
        weight.grad = None if gradient is None else gradient.to(weight.device)


def _list_weights(optim_wrapper: OptimWrapper) -> list[Tensor]:
    return [weight for group in optim_wrapper.param_groups for weight in group["params"]]
