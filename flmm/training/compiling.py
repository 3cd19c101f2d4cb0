"""An opt-in of a training's config: the mask head through ``torch.compile``.

In: the config key ``compile_mask_head`` and a model. Out: the same model, whose head computes the
same with kernels made for it. mmengine's own key ``compile`` is none for flmm: it compiles the
whole training step, frozen reader and losses included.
"""

from __future__ import annotations

from typing import Any

from mmengine.logging import print_log
from torch import nn

from flmm.masks import UNetHead


def compile_mask_head(model: nn.Module, settings: bool | dict[str, Any]) -> None:
    """Compile the convolutions of a grounder's mask head, in place, when each is first called.

    Block by block and with dynamic shapes: pictures differ in their number of phrases and in the
    sides of their maps, and the head's preparation of the maps (a scale in Python numbers) is left
    as it is. Parameters, their names and checkpoints stay what they are; copies of the model are
    not compiled.

    Args:
        model: with a ``mask_head``.
        settings: false: nothing is done; true, or arguments of ``torch.compile``.

    Raises:
        TypeError: the model has no mask head of flmm's, or the settings are neither.
    """
    if settings is False:
        return
    if not isinstance(settings, (bool, dict)):
        raise TypeError(
            f"compile_mask_head is {settings!r}: give True, False, or a dict of torch.compile's "
            "arguments"
        )
    head = getattr(model, "mask_head", None)
    if not isinstance(head, UNetHead):
        raise TypeError(
            f"compile_mask_head compiles a UNetHead, {type(model).__name__} has "
            f"{'no mask head' if head is None else type(head).__name__}: leave the key out"
        )
    options: dict[str, Any] = {"dynamic": True}
    options |= settings if isinstance(settings, dict) else {}
    for block in (*head.encoder, *head.decoder):
        block.compile(**options)
    print_log(
        "The mask head is compiled: its first iterations take minutes, not seconds",
        logger="current",
    )


__all__ = ["compile_mask_head"]
