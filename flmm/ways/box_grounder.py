"""Masks from the boxes that the frozen reader names, alone or together with where it looks.

How a family is asked and read is its own to say (``Family.box_format``). An answer may name several
boxes, which are several objects of the phrase.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flmm.geometry import Size, find_box_cells
from flmm.grounder import Grounder, read_images
from flmm.masks import ImageEncoding, Refiner
from flmm.readers.boxes import BoxReading, read_boxes
from flmm.records import Continuation, GroundingOutput, ImageInput, PhraseAttention
from flmm.registry import MODELS
from flmm.results import GroundingResult
from flmm.ways.together import predict_together

if TYPE_CHECKING:
    from flmm.readers.base import Prefix

# Of a refiner that nobody has trained: it knows no words, and a map's box serves it better than box
# and map (docs/without_training.md).
PROMPTS = {"use_mask": False, "use_box": True, "use_text": False, "multimask_output": False}
_DRAWN = 10.0  # the logit inside a box that is drawn as a mask, and its negative around it
_WORDLESS = BoxReading(torch.zeros(0, 4), "there are no words to ask for a box of")


@MODELS.register_module()
class BoxGrounder(Grounder):
    """Masks of phrases from boxes that the frozen reader names; nothing is trained.

    Without a mask head (way ``"box"``) the boxes alone point. With one (``"both"``) a box bounds
    the map, and of several boxes those are kept in which the map has foreground (all, where none
    has); where no box can be read, the map points alone. The refiner is prompted with boxes alone:
    the map as a second prompt, within SAM's own logits, made masks of good boxes worse.

    Args:
        model: the frozen reader, or its config.
        sam: the refiner, or its config, with its original weights; its own prompts play no part.
        mask_head: a mask head, or its config.
        max_new_tokens: of the longest reply.

    Raises:
        ValueError: how the reader's family names boxes is not known, or there is no refiner.
    """

    uses_boxes = True

    def __init__(
        self, model: Any, sam: Any, mask_head: Any = None, max_new_tokens: int = 256
    ) -> None:
        if sam is None:
            raise ValueError(
                "pointing by boxes needs SAM: give sam=dict(type='SAMRefiner', model_name=..., "
                "checkpoint=...)"
            )
        refiner: Any = sam if isinstance(sam, nn.Module) else MODELS.build(sam)
        head = nn.Identity() if mask_head is None else mask_head
        super().__init__(model, head, take_as_published(refiner), loss_mask=None, loss_dice=None)
        self.uses_maps = mask_head is not None
        self.max_new_tokens = max_new_tokens
        self.box_format = self.vlm.family.box_format
        self.requires_grad_(False)

    def attend(
        self, prefixes: Sequence[Prefix], continuations: Sequence[list[Continuation]]
    ) -> list[PhraseAttention]:
        """As any grounder; maps of no head where no mask head looks at them."""
        if self.uses_maps:
            return super().attend(prefixes, continuations)
        return [_see_nothing(*pair) for pair in zip(prefixes, continuations)]

    @torch.no_grad()
    def find_boxes(self, prefix: Prefix, phrases: Sequence[str]) -> list[BoxReading]:
        """Boxes of phrases, each asked by its own text alone, and once, however often it occurs."""
        asked = list(dict.fromkeys(phrase for phrase in phrases if phrase.strip()))
        questions = [self.box_format.ask(phrase) for phrase in asked]
        replies = self.vlm.answer(prefix, questions, self.max_new_tokens, skip_special_tokens=False)
        readings = [read_boxes(item, self.box_format, prefix.image_input) for item in replies]
        found = dict(zip(asked, readings))
        return [found.get(phrase, _WORDLESS) for phrase in phrases]

    def compute_coarse(self, image: ImageInput, seen: PhraseAttention) -> tuple[Tensor, Tensor]:
        """As any grounder; without a mask head all of the picture is foreground."""
        if self.uses_maps:
            return super().compute_coarse(image, seen)
        refiner: Any = self.sam
        shape = (len(seen.maps), *refiner.mask_prompt_size)
        return seen.maps, torch.full(shape, _DRAWN, device=refiner.device)

    def ground_seen(
        self,
        image: ImageInput,
        seen: PhraseAttention,
        encoding: ImageEncoding | None,
        boxes: Sequence[BoxReading] | None = None,
    ) -> GroundingOutput:
        """Masks of phrases from ``boxes``, and from where they look.

        Raises:
            ValueError: ``boxes`` or ``encoding`` are missing.
        """
        refiner = self.sam
        if refiner is None or encoding is None or boxes is None:
            raise ValueError("pass what find_boxes and encode_images gave of the picture")
        maps, coarse = self.compute_coarse(image, seen)
        size = image.original_size
        pairs = [_bound_map(*row, size) for row in zip(coarse, (item.boxes_xyxy for item in boxes))]
        drawn = [pair[1] for pair in pairs]
        logits = refiner.refine_boxes(encoding, torch.cat([pair[0] for pair in pairs]))
        objects = list(logits.split([len(item) for item in drawn]))
        unread = [row for row, item in enumerate(boxes) if item.problem and self.uses_maps]
        if unread:
            for row, own in zip(unread, refiner.refine(encoding, coarse[unread])):
                objects[row], drawn[row] = own[None], coarse[row : row + 1]
        return GroundingOutput(
            *(maps, _unite(drawn, -_DRAWN), _unite(objects, float("-inf"))),
            object_logits=objects,
            problems=[item.problem for item in boxes],
        )

    def ground_images(
        self, images: Sequence[ImageInput], continuations: Sequence[list[Continuation]]
    ) -> list[GroundingOutput]:
        """As any grounder."""
        outputs = []
        for reading, texts in zip(read_images(self, images), continuations):
            phrases = [phrase for item in texts for phrase in item.phrases]
            (seen,) = self.attend([reading.prefix], [texts])
            boxes = self.find_boxes(reading.prefix, phrases)
            image = reading.prefix.image_input
            outputs.append(self.ground_seen(image, seen, reading.encoding, boxes))
        return outputs

    def predict_images(
        self, images: Sequence[ImageInput], questions: Sequence[list[list[Continuation]]]
    ) -> list[list[GroundingResult]]:
        """As any grounder."""
        return predict_together([self], images, questions)[0]


@MODELS.register_module()
class BoxBaseline(BoxGrounder):
    """:class:`BoxGrounder` under its former name; same arguments."""


def take_as_published(refiner: Refiner) -> Refiner:
    """The same refiner, prompted with the box of a map alone; see :data:`PROMPTS`."""
    own = copy.copy(refiner)
    for name, value in PROMPTS.items():
        setattr(own, name, value)
    return own


def _see_nothing(prefix: Prefix, continuations: Sequence[Continuation]) -> PhraseAttention:
    count = sum(len(item.phrases) for item in continuations)
    maps = [torch.zeros(count, 0, *grid.size) for grid in prefix.grids]
    no_ids = torch.zeros(0, dtype=torch.int64)
    return PhraseAttention(maps, [torch.zeros(0, 0, 0)] * count, [no_ids] * len(continuations))


def _bound_map(coarse: Tensor, boxes: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Those of boxes ``[n, 4]`` that the map ``[h', w']`` supports, and ``[n, h', w']`` in each."""
    boxes = boxes.to(coarse.device)
    inside = find_box_cells(boxes, size, (coarse.shape[0], coarse.shape[1]))
    supported = (inside & (coarse > 0)).flatten(1).any(1)
    kept = supported if supported.any() else torch.ones_like(supported)
    return boxes[kept], torch.where(inside[kept], coarse, -_DRAWN)


def _unite(parts: Sequence[Tensor], nothing: float) -> Tensor:
    """The union ``[P, h, w]`` of each phrase's logits ``[n, h, w]``."""
    empty = parts[0].new_full((1, *parts[0].shape[1:]), nothing)
    return torch.stack([part.amax(0) if len(part) else empty[0] for part in parts])
