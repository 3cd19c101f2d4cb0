"""How far a presence can be trusted: how well it tells apart, and whether it means what it says.

In: probabilities ``[N]`` and whether each phrase's thing is there, bool ``[N]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compute_auc(probs: Tensor, labels: Tensor) -> float:
    """Probability that a phrase that is there is given more than an absent one; ties count half."""
    present, absent = probs[labels], probs[~labels]
    order = present.sort().values
    below = torch.searchsorted(order, absent).double()
    upto = torch.searchsorted(order, absent, right=True).double()
    return float(1 - ((below + upto) / 2).mean() / len(present))


def compute_reliability(probs: Tensor, labels: Tensor, bins: int = 10) -> np.ndarray:
    """``[bins, 3]``: mean probability, share of phrases that are there, phrases; NaN where none."""
    place = (probs * bins).long().clamp(0, bins - 1)
    rows = []
    for index in range(bins):
        own = place == index
        rows.append([float(probs[own].mean()), float(labels[own].double().mean()), int(own.sum())])
    return np.array(rows)


def measure_presence(probs: Tensor, labels: Tensor, threshold: float) -> dict[str, float]:
    """AUC, N-acc, T-acc at a threshold and the expected calibration error, all in [0, 1].

    N-acc is the share of absent phrases below the threshold, T-acc that of the others above it, as
    gRefCOCO has them. ECE: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    means, shares, counts = compute_reliability(probs, labels).T
    gaps = np.nan_to_num(np.abs(means - shares)) * counts
    return {
        "AUC": compute_auc(probs, labels),
        "N-acc": float((probs[~labels] < threshold).double().mean()),
        "T-acc": float((probs[labels] >= threshold).double().mean()),
        "ECE": float(gaps.sum() / counts.sum()),
    }


def draw_reliability(probs: Tensor, labels: Tensor, title: str) -> Figure:
    """A reliability diagram: how often phrases are there that are given a probability."""
    from matplotlib.figure import Figure

    means, shares, counts = compute_reliability(probs, labels).T
    figure = Figure(figsize=(5, 5), layout="tight")
    upper, lower = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    upper.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="calibrated")
    upper.plot(means, shares, marker="o", label=title)
    upper.set_ylabel("share of phrases that are there")
    upper.legend()
    edges = np.linspace(0, 1, len(counts) + 1)
    lower.bar(edges[:-1], counts, width=1 / len(counts), align="edge", edgecolor="white")
    lower.set_xlabel("presence")
    lower.set_ylabel("phrases")
    return figure
