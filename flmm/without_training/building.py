"""A grounder of published weights; until its heads are chosen, one that waits for pictures."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from flmm.grounder import Grounder, Reading
from flmm.head_choice import HeadChoice
from flmm.readers import FrozenVLM
from flmm.records import Continuation
from flmm.registry import MODELS
from flmm.without_training.heads import choose_and_keep, find_heads


class UnchosenHead(nn.Module):
    """Stands for a grounder's mask head until its heads are chosen.

    Args:
        config: of the grounder; where the heads are written then.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.lock = threading.Lock()

    @property
    def choice(self) -> HeadChoice:
        """Raises ValueError: there is none."""
        raise ValueError(
            "no heads of this reader have been chosen yet: ground a picture first, or name "
            "pictures to choose them from (from_reader: pictures=) or the heads (heads=)"
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Raises ValueError."""
        return maps[:, self.choice.list_channels()]


def settle_heads(
    grounder: Grounder,
    readings: Sequence[Reading],
    continuations: Sequence[list[Continuation]] | None = None,
) -> None:
    """Give a grounder that waits for it its head, chosen from pictures that were read.

    Threads that come at once wait for the one that chooses, and find the head.
    """
    waiting = grounder.mask_head
    if not isinstance(waiting, UnchosenHead):
        return
    with waiting.lock:
        if grounder.mask_head is waiting:
            images = [item.prefix.image_input for item in readings]
            items = list(zip(images, continuations or [[]] * len(images)))
            choice = choose_and_keep(grounder.vlm, items)
            grounder.mask_head = _build_head(waiting.config, grounder.vlm, choice)


def build_grounder(
    config: Config,
    reader: FrozenVLM | None,
    device: torch.device,
    heads: Any = None,
    pictures: Sequence[Any] = (),
) -> Grounder:
    """The grounder of what ``flmm.without_training.parts.configure`` gave, on its device.

    Args:
        reader: a ready one; ``None``: it is built.
        heads, pictures: see :func:`flmm.without_training.heads.find_heads`.
    """
    init_default_scope("flmm")
    sam = None if config.model.sam is None else MODELS.build(config.model.sam)
    vlm = (MODELS.build(config.model.model) if reader is None else reader).to(device)
    parts: dict[str, Any] = {"model": vlm, "sam": sam}
    if "mask_head" in config.model:
        choice = find_heads(vlm, heads, pictures)
        head = UnchosenHead(config) if choice is None else _build_head(config, vlm, choice)
        parts["mask_head"] = head
    elif heads is not None or pictures:
        raise ValueError("boxes alone point here, and no head: leave heads and pictures out")
    return MODELS.build({**config.model, **parts}).to(device)


def _build_head(config: Config, vlm: FrozenVLM, choice: HeadChoice) -> nn.Module:
    """The mask head of chosen heads; those that take part travel in the config."""
    settings = config.model.mask_head
    if (
        choice.method == "by hand" and settings.type == "RuleHead"
    ):  # all that were named, and not the rule's usual number
        settings.setdefault("top", len(choice.heads))
    head = MODELS.build({**settings, "choice": choice, "in_channels": vlm.num_channels}).eval()
    settings.choice = json.loads(json.dumps(asdict(head.choice)))
    return head
