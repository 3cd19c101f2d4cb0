"""A mask head for any reader: it is given the best heads of whatever reader it meets, by rank.

A channel is a rank, not a (layer, head) of one model. While it is trained it never knows which of
the reader's good heads stands in which rank, nor how peaked a head is.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flmm.head_choice import HeadChoice, load_head_choice
from flmm.masks.rules import find_peak_region
from flmm.masks.unet import UNetHead
from flmm.registry import MODELS

SHARED_FOLDER = Path(__file__).parents[1] / "assets" / "shared_head"
_LEAST = 1e-9
# What an untouched SAM is asked with: the box of the cells that are surely the object's, and a
# hesitant mask. Both were chosen with the toy, see docs/tiny_model.md.
_SURE, _SHARPNESS = 2.0, 0.2


@MODELS.register_module()
class RankedHead(nn.Module):
    """Coarse mask logits from as many of a reader's heads as there are ranks; trained.

    Args:
        choice: a :class:`HeadChoice`, its fields, or the path of its JSON. Where it names fewer
            heads than there are ranks they come again from the first; in training some of those
            behind the last rank are drawn too.
        head: settings of the inner :class:`UNetHead`, which has a channel per rank.
        ranks: how many.
        stray: in training, by how many ranks (standard deviation) a head leaves its own.
        repeat: in training, probability that a rank is given the head of an earlier one.
        gamma: in training, maps are raised to powers of ``exp(-gamma)`` to ``exp(gamma)``.
        in_channels: channels of the reader's maps, for a check; ``None``: none is made.

    Attributes:
        layers: how many of the reader's first layers it needs.

    Raises:
        ValueError: the reader gives too few channels for the choice.
    """

    def __init__(
        self,
        choice: str | Path | HeadChoice | Mapping[str, Any],
        head: Mapping[str, Any],
        ranks: int = 6,
        stray: float = 2.0,
        repeat: float = 0.2,
        gamma: float = 0.5,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.choice = load_head_choice(choice).best(ranks + math.ceil(2 * stray))
        self.layers = self.choice.layers
        self.ranks, self.stray, self.repeat, self.gamma = ranks, stray, repeat, gamma
        self.head = UNetHead(ranks, **head)
        self.choice.check_channels(in_channels)

    def forward(self, maps: Tensor) -> Tensor:
        """``[P, C, h, w]`` in [0, 1], of the finest grid first, to logits ``[P, 1, h', w']``."""
        channels = self.choice.list_channels()
        if not self.training:
            return self.head(maps[:, [channels[i % len(channels)] for i in range(self.ranks)]])
        ranked = maps[:, self._draw(channels)].clamp(min=_LEAST)
        powers = torch.empty_like(ranked[..., :1, :1]).uniform_(-self.gamma, self.gamma).exp()
        turned = [dim for dim in (-2, -1) if random.random() < 0.5]
        return self.head((ranked**powers).flip(turned)).flip(turned)

    def _draw(self, channels: list[int]) -> list[int]:
        """Those of another reader, so to speak: heads stray in rank, some are missing."""
        places = sorted(range(len(channels)), key=lambda rank: random.gauss(rank, self.stray))
        drawn = [channels[places[rank % len(places)]] for rank in range(self.ranks)]
        for rank in range(1, self.ranks):
            if random.random() < self.repeat:
                drawn[rank] = random.choice(drawn[:rank])
        return drawn


@MODELS.register_module()
class SharedHead(nn.Module):
    """The :class:`RankedHead` that comes with flmm, for a reader that it never saw; frozen.

    It was trained once, with the embedded reader (configs/tiny/tiny_ranked_shapes.py), and is no
    part of what a model saves.

    Args:
        choice: heads of the reader at hand, see :class:`RankedHead`.
        in_channels: channels of the reader's maps, for a check.

    Attributes:
        layers: how many of the reader's first layers it needs.
    """

    def __init__(
        self,
        choice: str | Path | HeadChoice | Mapping[str, Any],
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        record = json.loads((SHARED_FOLDER / "config.json").read_text(encoding="utf-8"))
        trained = {k: record["model"]["mask_head"][k] for k in ("head", "ranks")}
        head = RankedHead(choice, **trained, stray=0.0, in_channels=in_channels)
        weights = load_file(SHARED_FOLDER / "model.safetensors")
        head.load_state_dict({k.removeprefix("mask_head."): v for k, v in weights.items()})
        self.choice, self.layers = head.choice, head.layers
        self._held = (head.requires_grad_(False).eval(),)  # outside of the module tree

    def forward(self, maps: Tensor) -> Tensor:
        """As :meth:`RankedHead.forward`; foreground is what is sure, in the region of the peak."""
        logits = self._held[0].to(maps.device)(maps.float())
        is_kept = (logits <= _SURE) | find_peak_region(logits, _SURE)
        logits = torch.where(is_kept, logits, logits.amin((-2, -1), keepdim=True))
        return (logits - _SURE) * _SHARPNESS
