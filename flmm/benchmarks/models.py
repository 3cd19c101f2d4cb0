"""A whole grounder of published sizes with random weights: what the benchmarks run."""

from __future__ import annotations

import torch

from flmm.grounder import Grounder
from flmm.masks import SAMRefiner, UNetHead
from flmm.readers.layouts import build_layout_reader


def build_layout_grounder(layout: str, layers: int | None, model_name: str) -> Grounder:
    """A reader of a layout, F-LMM's mask head and a SAM refiner; always the same weights.

    Args:
        layout, layers: see :mod:`flmm.readers.layouts`.
        model_name: of segment-anything's registry, random weights; or "tiny", the embedded one.
    """
    torch.manual_seed(0)
    reader = build_layout_reader(layout, layers)
    head = UNetHead(in_channels=reader.num_maps, normalize_input=True, upsample_input=64)
    return Grounder(reader, head, SAMRefiner(model_name))


__all__ = ["build_layout_grounder"]
