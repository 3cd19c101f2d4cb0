"""A mask head without weights: a few heads of the reader, merged and thresholded by a rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flmm.head_choice import HeadChoice, load_head_choice
from flmm.registry import MODELS

_LEAST = 1e-9


@MODELS.register_module()
class RuleHead(nn.Module):
    """Coarse mask logits from the attention maps of chosen heads; nothing is trained.

    Every map is divided by its maximum, the maps are averaged, upsampled, smoothed, divided by
    their maximum and compared with a threshold. A phrase's logits depend on its own maps alone.

    They lie between ``-threshold * sharpness`` and ``(1 - threshold) * sharpness``. A refiner of
    published weights takes a mask prompt as its decoder was trained on it: unthresholded logits of
    its own earlier answer, as large as ``mask_prompt_size`` (``mask_input`` of segment-anything's
    ``SamPredictor.predict``; SAM 2 clamps those to [-32, 32]); the default stays within [-3, 7].

    Args:
        choice: a :class:`HeadChoice`, its fields, or the path of its JSON; ``"tiny"``: that of the
            embedded reader.
        in_channels: channels of the maps, for a check; ``None``: none is made.
        top: how many of the chosen heads take part, the best ones.
        threshold: share of the map's maximum from which a cell is foreground.
        upsampling: cells of the coarse mask per attention cell and side.
        sharpness: logits per share of the maximum.
        keep: ``"peak"``: the region of the maximum alone is foreground; ``"all"``: every region
            above the threshold, for phrases of several things.

    Attributes:
        layers: how many of the reader's first layers it needs.
    """

    def __init__(
        self,
        choice: str | Path | HeadChoice | dict[str, Any],
        in_channels: int | None = None,
        top: int = 5,
        threshold: float = 0.3,
        upsampling: int = 4,
        sharpness: float = 10.0,
        keep: str = "peak",
    ) -> None:
        super().__init__()
        if keep not in ("peak", "all"):
            raise ValueError(f"keep is {keep!r}: use 'peak' (its region alone) or 'all'")
        self.choice = load_head_choice(choice).best(top)
        self.layers = self.choice.layers
        self.threshold, self.upsampling, self.sharpness = threshold, upsampling, sharpness
        self.keep = keep
        self.choice.check_channels(in_channels)

    def forward(self, maps: Tensor) -> Tensor:
        """``[P, C, h, w]`` in [0, 1], of the finest grid first, to logits ``[P, 1, h', w']``."""
        merged = _normalise(maps[:, self.choice.list_channels()].float()).mean(1, keepdim=True)
        merged = F.interpolate(
            _normalise(merged), scale_factor=self.upsampling, mode="bicubic"
        ).clamp(min=0)
        merged = _normalise(_smooth(_smooth(merged)))
        if self.keep == "peak":
            merged = merged * (
                (merged <= self.threshold) | find_peak_region(merged, self.threshold)
            )
        return (merged - self.threshold) * self.sharpness


def _normalise(maps: Tensor) -> Tensor:
    """Each map over its maximum."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp(min=_LEAST)


def _smooth(maps: Tensor) -> Tensor:
    """``[P, 1, h, w]`` by the binomial kernel of 3 x 3."""
    row = torch.tensor([1.0, 2.0, 1.0], device=maps.device) / 4
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), (row[:, None] * row)[None, None])


def find_peak_region(maps: Tensor, threshold: float) -> Tensor:
    """Bool ``[P, 1, h, w]``: cells above the threshold that touch the maximum's, by a chain of
    neighbours (8 each) above it."""
    above = (maps > threshold).float()
    region = (maps == maps.amax((-2, -1), keepdim=True)).float() * above
    size = -1
    while int(region.sum()) > size:
        size = int(region.sum())
        region = F.max_pool2d(region, 3, stride=1, padding=1) * above
    return region > 0
