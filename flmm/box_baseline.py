"""The baseline every table needs: the frozen model's own box, turned into a mask by SAM.

In: pictures and phrases, as the grounder takes them. Out: masks, and a reason where the model's
reply holds no box. Nothing is trained: reader and SAM are as they were published. How a family is
asked and read is the duty of ``flmm.readers.boxes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from flmm.readers.boxes import build_box_question, get_box_format, parse_box
from flmm.records import (
    Continuation,
    GroundingSample,
    ImageInput,
)
from flmm.registry import MODELS
from flmm.results import GroundingResult, make_result

if TYPE_CHECKING:
    from flmm.masks import Refiner
    from flmm.readers import FrozenVLM


@MODELS.register_module()
class BoxBaseline(BaseModel):
    """Masks of phrases from boxes that the frozen vision-language model names.

    Args:
        model: the frozen reader, or its config (``dict(type="FrozenQwen", ...)``).
        sam: the refiner (frozen in place), or its config, with segment-anything's original
            weights; its own prompts (``use_text`` and the like) play no part.
        max_new_tokens: the longest reply.
        data_preprocessor: as in mmengine.

    Raises:
        ValueError: the reader's family names boxes in a way that is not known, or there is no SAM.
    """

    def __init__(
        self, model: Any, sam: Any, max_new_tokens: int = 128, data_preprocessor: Any = None
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        if sam is None:
            raise ValueError(
                "the box baseline needs SAM: give sam=dict(type='SAMRefiner', model_name=..., "
                "checkpoint=...)"
            )
        self.vlm: FrozenVLM = _build(model)
        self.sam: Refiner = _build(sam)
        self.max_new_tokens = max_new_tokens
        self.model_type: str = self.vlm.model.config.model_type
        get_box_format(self.model_type)
        self.sam.requires_grad_(False)

    def forward(
        self,
        inputs: list[ImageInput | None],
        data_samples: list[GroundingSample] | None = None,
        mode: str = "predict",
    ) -> list[GroundingSample]:
        """Predict, the only one of mmengine's modes that there is.

        Args:
            inputs: B pictures; ``None`` where a record was skipped.
            data_samples: their phrases.
            mode: "predict".

        Returns:
            the samples with ``pred_masks`` (bool ``[P, H, W]``), ``scores`` (``[P]``) and
            ``problems`` (per phrase a reason or ``None``); skipped ones as they are.

        Raises:
            ValueError: another mode, no data samples, or counts that differ.
        """
        if mode != "predict":
            raise ValueError(f"mode is {mode!r}: the box baseline is not trained, use 'predict'")
        if data_samples is None or len(data_samples) != len(inputs):
            count = 0 if data_samples is None else len(data_samples)
            raise ValueError(f"got {len(inputs)} pictures but {count} data samples: pass one each")
        for image, sample in zip(inputs, data_samples):
            if image is not None:
                result = self.predict_phrases(image, [sample.continuations])[0]
                sample.pred_masks = torch.tensor(result.masks)
                sample.scores = torch.tensor(result.scores)
                sample.problems = [item.problem for item in result]
        return data_samples

    @torch.no_grad()
    def predict_phrases(
        self, image: ImageInput, questions: list[list[Continuation]]
    ) -> list[GroundingResult]:
        """Masks of one picture's phrases, asked in several ways.

        Every phrase is asked by its own text alone, also where a continuation holds several, and
        once, however often it occurs.

        Args:
            image: the picture; read and encoded once.
            questions: lists of continuations.

        Returns:
            one result per question, without coarse masks.
        """
        asked = [[text for item in texts for text in item.phrases] for texts in questions]
        rows = {phrase: row for row, phrase in enumerate(dict.fromkeys(chain(*asked)))}
        boxes, problems = self._ask(image, list(rows))
        logits = self._draw(image, boxes)
        result = make_result(list(rows), logits, problems=problems)
        return [
            replace(result, found=[result[rows[phrase]] for phrase in phrases]) for phrases in asked
        ]

    def predict_images(
        self, images: Sequence[ImageInput], questions: Sequence[list[list[Continuation]]]
    ) -> list[list[GroundingResult]]:
        """Masks of the phrases of several pictures, one after the other."""
        return [self.predict_phrases(*pair) for pair in zip(images, questions)]

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
    """A ready module as it is, a config built."""
    return module if isinstance(module, nn.Module) else MODELS.build(module)


__all__ = ["BoxBaseline"]
