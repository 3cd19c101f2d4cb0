"""How a mask head is asked, whichever it is: see ``docs/own_parts.md``."""

from __future__ import annotations

from torch import Tensor, nn

from flmm.weights import check_finite


def compute_coarse_logits(mask_head: nn.Module, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Coarse mask logits of P phrases.

    Args:
        mask_head: any; outside of training what it gives must be finite.
        maps: ``[P, L*A, h, w]`` in [0, 1], of any dtype and device.

    Returns:
        the maps on the head's device, in their dtype, and float32 logits ``[P, h', w']``.

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
