"""How a mask head is asked, whichever it is: see ``docs/own_parts.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from flmm.weights import check_finite


def count_layers(mask_head: Any, num_layers: int) -> int:
    """How many of a reader's first layers a mask head, or its config, looks at.

    That is its ``layers``, where that is a number; else all.

    Raises:
        ValueError: the reader has not so many.
    """
    is_config = isinstance(mask_head, Mapping)
    given = mask_head.get("layers") if is_config else getattr(mask_head, "layers", None)
    if not isinstance(given, int):  # a module's own layers, maybe
        return num_layers
    if not 1 <= given <= num_layers:
        raise ValueError(
            f"mask_head.layers is {given}, and the reader has {num_layers}: give 1 to "
            f"{num_layers}, or leave it out to look at all"
        )
    return given


def compute_coarse_logits(mask_head: nn.Module, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 logits ``[P, h', w']`` of P phrases, and the maps on the head's device.

    The maps are ``[P, C, h, w]`` in [0, 1], of any dtype and device; outside of training
    they and what the head gives must be finite.

    Raises:
        TypeError: the head gives no tensor.
        ValueError: the logits have another shape, or maps or logits are not finite.
    """
    weight = next(mask_head.parameters(), maps)
    maps = maps.to(weight.device)
    if not mask_head.training:
        check_finite(maps, "the reader's attention")
    logits = mask_head(maps.to(weight.dtype))
    name = type(mask_head).__name__
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the mask head {name} gives a {type(logits).__name__}: a tensor [P, 1, h', w'] is "
            "needed"
        )
    if logits.ndim != 4 or logits.shape[:2] != (len(maps), 1):
        raise ValueError(
            f"the mask head {name} gives {list(logits.shape)} for {len(maps)} phrases: logits "
            "[P, 1, h', w'] are needed"
        )
    if not mask_head.training:
        check_finite(logits, f"what the mask head {name} gives")
    return maps, logits[:, 0].float()
