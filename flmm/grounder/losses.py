"""What masks are trained by: losses and logged figures, as means over all phrases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from flmm.geometry import resize_masks
from flmm.mmcv_ops import build_loss

LossConfig = Mapping[str, Any] | Literal["default"] | None
_DEFAULT_LOSSES: dict[str, dict[str, Any]] = {
    "loss_mask": {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": True},
    "loss_dice": {
        "type": "mmdet.DiceLoss",
        "use_sigmoid": True,
        "activate": True,
        "naive_dice": True,
        "eps": 1.0,
    },
}


class MaskLosses:
    """The pixel loss and the region loss of masks; mmdet is imported at the first call."""

    def __init__(self, loss_mask: LossConfig, loss_dice: LossConfig) -> None:
        self._cfgs = {
            name: _DEFAULT_LOSSES[name] if cfg == "default" else cfg
            for name, cfg in (("loss_mask", loss_mask), ("loss_dice", loss_dice))
            if cfg is not None
        }
        self._losses: dict[str, nn.Module] | None = None

    @property
    def all_off(self) -> bool:
        """Whether there is no loss."""
        return not self._cfgs

    def __call__(self, mask_logits: Tensor, gt_masks: Tensor) -> dict[str, Tensor]:
        """The losses that are on, pixel accuracy (``accuracy``) and mean IoU (``aiou``).

        Args:
            mask_logits: ``[P, h, w]``.
            gt_masks: bool ``[P, H, W]``.
        """
        if self._losses is None:
            self._losses = {name: build_loss(dict(cfg)) for name, cfg in self._cfgs.items()}
        size = (mask_logits.shape[-2], mask_logits.shape[-1])
        gt_masks = resize_masks(gt_masks.to(mask_logits.device), size)
        logits, target = mask_logits.flatten(1), gt_masks.flatten(1).to(mask_logits)
        with torch.no_grad():
            found, true = logits > 0, target > 0.5
            union = (found | true).sum(1).clamp(min=1)
            figures = {
                "accuracy": (found == true).float().mean(),
                "aiou": ((found & true).sum(1) / union).mean(),
            }
        for name, loss in self._losses.items():
            if name == "loss_mask":  # a mean over pixels, the other one over phrases
                figures[name] = loss(logits.flatten(), target.flatten(), avg_factor=logits.numel())
            else:
                figures[name] = loss(logits, target, avg_factor=len(logits))
        return figures


def average_phrases(totals: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Totals over ``count`` phrases of this process, as means over the phrases of all.

    DDP averages gradients over processes, whatever number of phrases each has. Here each loss
    carries the gradient of ``totals * processes / all phrases``, so that DDP's average is the
    gradient of the mean over all phrases; its value is that mean, the same in every process.
    """
    processes = get_world_size()
    if processes == 1:
        return {key: value / count for key, value in totals.items()}
    sums = torch.stack([value.detach().float() for value in totals.values()])
    sums = torch.cat([sums, sums.new_tensor([count])])
    all_reduce(sums)
    shares = {key: value * processes / sums[-1] for key, value in totals.items()}
    means = dict(zip(totals, sums[:-1] / sums[-1]))
    return {key: share + (means[key] - share).detach() for key, share in shares.items()}
