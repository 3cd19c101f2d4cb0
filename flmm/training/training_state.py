"""What a process of a training knows besides its weights: random states and unfinished gradients.

In: the running process. Out: tensors and plain values, which a checkpoint can hold and
``torch.load(weights_only=True)`` gives back; and the way in again. Where in the data a training
stands is the loops' knowledge.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor


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
