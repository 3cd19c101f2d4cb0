"""A second look: small objects are refined again, in a crop around their first masks.

A refiner decodes at a quarter of its frame's side, so that an object of a few cells has no edge. A
crop fills the frame with it. Works with whatever refiner there is, by its protocol alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from flmm.geometry import Size, compute_boxes_xyxy, resize_maps
from flmm.masks.refiners.base import Refiner

Crop = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the picture
_SIDES_PER_OCTAVE = 2
_PLACES_PER_SIDE = 8
_CROPS_AT_ONCE = 8  # their encodings are in memory together


@dataclass(frozen=True)
class SecondLook:
    """Refines masks again where they are small; empty ones and large ones stay as they are.

    What is encoded depends on a phrase's own mask alone, never on its sisters. Crops come in few
    sizes and places, so that phrases of one object share one encoding.

    Attributes:
        max_share: of the picture's pixels, the most that a mask may have.
        context: the crop's side over the longest side of the mask's box, at least; a mask whose
            crop would be the whole picture (parts far from each other) stays as it is.
        limit: the first look's logits are cut to plus or minus this where they are prompts.
        weight: of the second look in its mean with the first; 1: it is all that counts.
    """

    max_share: float = 0.1
    context: float = 2.2
    limit: float = 12.0
    weight: float = 0.8

    def __post_init__(self) -> None:
        if not (0 < self.max_share <= 1 and 0 < self.weight <= 1 and self.limit > 0):
            raise ValueError(
                f"second_look has max_share {self.max_share}, weight {self.weight} and limit "
                f"{self.limit}: give the first two in (0, 1] and a limit above 0"
            )
        if self.context < 1.5:
            raise ValueError(
                f"second_look.context is {self.context}: give at least 1.5, so that the crop "
                "holds the object and some of its surroundings"
            )

    @torch.no_grad()
    def refine(
        self,
        refiner: Refiner,
        picture: np.ndarray,
        coarse_mask_logits: Tensor,
        first: Tensor,
        words: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Sharper logits ``[P, H, W]``; outside of its crop a phrase keeps those of its first look.

        Args:
            refiner: what gave the first look.
            picture: uint8 RGB ``[H, W, 3]``.
            coarse_mask_logits: ``[P, h', w']`` over the picture. Their mean with the first look
                is the prompt, since the refiner was trained to be prompted by them.
            first: logits ``[P, H, W]`` of the first look.
            words: as in :meth:`Refiner.refine`.
        """
        members = defaultdict(list)
        for phrase, crop in enumerate(self.choose_crops(first)):
            if crop is not None:
                members[crop].append(phrase)
        logits, crops = first.clone(), list(members)
        for start in range(0, len(crops), _CROPS_AT_ONCE):
            some = crops[start : start + _CROPS_AT_ONCE]
            encodings = refiner.encode([picture[y0:y1, x0:x1] for x0, y0, x1, y1 in some])
            for crop, encoding in zip(some, encodings):
                x0, y0, x1, y1 = crop
                phrases = members[crop]
                seen = first[phrases, y0:y1, x0:x1]
                coarse = coarse_mask_logits[phrases].to(first)
                coarse = resize_maps(coarse, (first.shape[-2], first.shape[-1]))[:, y0:y1, x0:x1]
                prompts = (seen.clamp(-self.limit, self.limit) + coarse) / 2
                own = None if words is None else [words[phrase] for phrase in phrases]
                second = refiner.refine(encoding, prompts, own)
                logits[phrases, y0:y1, x0:x1] = torch.lerp(seen, second, self.weight)
        return logits

    def choose_crops(self, logits: Tensor) -> list[Crop | None]:
        """Where to look again, of each of ``[P, H, W]``; ``None``: nowhere."""
        masks = logits > 0
        shares = masks.flatten(1).float().mean(1).tolist()
        boxes = compute_boxes_xyxy(masks).tolist()
        size = (logits.shape[1], logits.shape[2])
        return [
            _place_crop(box, size, self.context) if 0 < share <= self.max_share else None
            for share, box in zip(shares, boxes)
        ]


def build_second_look(settings: Mapping[str, float], refiner: Refiner | None) -> SecondLook:
    """A second look by ``refiner`` with a config's settings.

    Raises:
        ValueError: there is no refiner, or a setting is unknown or out of range.
    """
    if refiner is None:
        raise ValueError(
            "second_look needs a refiner, and sam is None: give one, or no second_look"
        )
    known = [field.name for field in fields(SecondLook)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"second_look has no {unknown[0]!r}: its settings are {', '.join(known)}")
    return SecondLook(**settings)


def _place_crop(box: Sequence[float], size: Size, context: float) -> Crop | None:
    """A square crop inside the picture (a short side is all of it), or ``None`` for all of it."""
    wanted = context * max(box[2] - box[0], box[3] - box[1])
    steps = math.floor(_SIDES_PER_OCTAVE * math.log2(max(size) / wanted))
    if steps <= 0:
        return None
    side = math.ceil(max(size) * 2 ** (-steps / _SIDES_PER_OCTAVE))
    (x0, x1), (y0, y1) = (
        _place_side((box[axis] + box[axis + 2]) / 2, side, size[1 - axis]) for axis in (0, 1)
    )
    return x0, y0, x1, y1


def _place_side(centre: float, side: int, length: int) -> tuple[int, int]:
    """``side`` pixels of a line of ``length`` around ``centre``, which is rounded."""
    side = min(side, length)
    step = side / _PLACES_PER_SIDE
    start = round(round(centre / step) * step - side / 2)
    start = min(max(start, 0), length - side)
    return start, start + side
