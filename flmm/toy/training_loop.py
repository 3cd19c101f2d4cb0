"""The plumbing of every training stage: learning rate, step, progress with the time left."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn

PROGRESS_EVERY = 50


class Progress:
    """Prints smoothed figures and the time left; keeps them for the log."""

    def __init__(self, steps: int) -> None:
        self.steps, self.began = steps, time.time()
        self.smooth: dict[str, float] = {}
        self.log: list[dict[str, float]] = []

    def report(self, step: int, **figures: float) -> None:
        """Take in one step's figures; print every ``PROGRESS_EVERY`` steps."""
        for name, value in figures.items():
            kept = 0.97 * self.smooth.get(name, value) + 0.03 * value
            self.smooth[name] = kept
        if step % PROGRESS_EVERY and step != self.steps - 1:
            return
        seconds = time.time() - self.began
        left = seconds / (step + 1) * (self.steps - step - 1)
        row = {name: round(value, 4) for name, value in self.smooth.items()}
        self.log.append({"step": step, "seconds": round(seconds), **row})
        text = "  ".join(f"{name} {value:.3f}" for name, value in row.items())
        print(f"{step}/{self.steps}  {seconds:.0f} s, {left:.0f} s left  {text}", flush=True)


def set_rate(
    optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int, warm_up: int
) -> None:
    """Linear warm-up, then a cosine from ``peak`` to 1 % of it, times the group's ``scale``."""
    rate = peak * min(1.0, (step + 1) / warm_up)
    rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def update(loss: Tensor, parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """One step, gradients clipped at norm 1."""
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
