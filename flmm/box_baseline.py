"""The baseline every table needs: the frozen model's own box, turned into a mask by SAM.

Nothing is trained: reader and SAM are as they were published. How a family is asked and read is the
duty of ``flmm.readers.boxes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flmm.readers.boxes import build_box_question, get_box_format, parse_box
from flmm.records import Continuation, ImageInput
from flmm.registry import MODELS
from flmm.results import GroundingResult, make_result

if TYPE_CHECKING:
    from flmm.masks import Refiner
    from flmm.readers import FrozenVLM


@MODELS.register_module()
class BoxBaseline(nn.Module):
    """Masks of phrases from boxes that the frozen vision-language model names.

    Args:
        model: the frozen reader, or its config.
        sam: the refiner (frozen in place), or its config, with its original weights; its own
            prompts (``use_text`` and the like) play no part.
        max_new_tokens: of the longest reply.

    Raises:
        ValueError: the reader's family names boxes in a way that is not known, or there is no SAM.
    """

    def __init__(self, model: Any, sam: Any, max_new_tokens: int = 128) -> None:
        super().__init__()
        if sam is None:
            raise ValueError(
                "the box baseline needs SAM: give sam=dict(type='SAMRefiner', model_name=..., "
                "checkpoint=...)"
            )
        self.vlm: FrozenVLM = _build(model)
        self.sam: Refiner = _build(sam).requires_grad_(False)
        self.max_new_tokens = max_new_tokens
        self.model_type: str = self.vlm.model.config.model_type
        get_box_format(self.model_type)

    def predict_images(
        self, images: Sequence[ImageInput], questions: Sequence[list[list[Continuation]]]
    ) -> list[list[GroundingResult]]:
        """Masks of the phrases of several pictures, one after the other."""
        return [self.predict_phrases(*pair) for pair in zip(images, questions)]

    @torch.no_grad()
    def predict_phrases(
        self, image: ImageInput, questions: list[list[Continuation]]
    ) -> list[GroundingResult]:
        """Masks of one picture's phrases, asked in several ways; it is read and encoded once.

        Every phrase is asked by its own text alone, also where a continuation holds several, and
        once, however often it occurs.

        Returns:
            one result per question, without coarse masks; ``problem`` says why a phrase has none.
        """
        asked = [[text for item in texts for text in item.phrases] for texts in questions]
        rows = {phrase: row for row, phrase in enumerate(dict.fromkeys(chain(*asked)))}
        boxes, problems = self._ask(image, list(rows))
        result = make_result(list(rows), self._draw(image, boxes), problems=problems)
        return [
            replace(result, found=[result[rows[phrase]] for phrase in phrases]) for phrases in asked
        ]

    def _ask(
        self, image: ImageInput, phrases: list[str]
    ) -> tuple[list[Tensor | None], list[str | None]]:
        """Per phrase the box ``[4]`` in original pixels, or the reason why there is none."""
        input_size = (image.pixel_values.shape[-2], image.pixel_values.shape[-1])
        questions = [build_box_question(self.model_type, phrase) for phrase in phrases]
        replies = self.vlm.answer(
            image, questions, max_new_tokens=self.max_new_tokens, skip_special_tokens=False
        )
        readings = [
            parse_box(reply, self.model_type, input_size, image.original_size) for reply in replies
        ]
        return [item.box_xyxy for item in readings], [item.problem for item in readings]

    def _draw(self, image: ImageInput, boxes: list[Tensor | None]) -> Tensor:
        """Logits ``[P, H, W]``; minus infinity everywhere where there is no box."""
        shape = (len(boxes), *image.original_size)
        logits = torch.full(shape, float("-inf"), device=self.sam.device)
        found = {row: box for row, box in enumerate(boxes) if box is not None}
        if found:
            (encoding,) = self.sam.encode([image.image])
            logits[list(found)] = self.sam.refine_boxes(encoding, torch.stack(list(found.values())))
        return logits


def _build(module: Any) -> Any:
    return module if isinstance(module, nn.Module) else MODELS.build(module)
