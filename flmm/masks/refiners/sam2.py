"""The refiner over SAM 2.1's image model: features of three scales, a picture stretched square."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flmm.masks.refiners.transformers_sam import TransformersRefiner
from flmm.registry import MODELS

_FINE = ("fine_4", "fine_8")  # by their stride in pixels of the frame


@MODELS.register_module()
class Sam2Refiner(TransformersRefiner):
    """SAM 2.1 (transformers' ``Sam2Model``), see :class:`TransformersRefiner`.

    The projections of the fine features (``conv_s0``, ``conv_s1``) run once per picture and are
    frozen with the encoder. Weights of the video model serve: what only videos need is left out.

    Deviation from the published predictor: a single mask is the first token's, however stable.
    The fallback to another token by ``iou_scores`` would take, in evaluation alone, one that was
    never trained.
    """

    example = "facebook/sam2.1-hiera-large"
    fills_frame = True
    frozen = (
        *("vision_encoder.", "no_memory_embedding", "mask_decoder.conv_s"),
        *("shared_image_embedding.", "prompt_encoder.shared_embedding."),
    )

    def _import_model(self) -> Any:
        from transformers import Sam2Model

        return Sam2Model

    def _build_processor(self) -> Any:
        from transformers import Sam2ImageProcessor

        return Sam2ImageProcessor(size={"height": self.side, "width": self.side})

    def _encode_frames(self, frames: Tensor) -> dict[str, Tensor]:
        *fine, embedding = self.sam.get_image_embeddings(frames)
        return dict(zip(_FINE, fine)) | {"embedding": embedding}

    def _embed_prompts(
        self, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        if boxes is not None:
            return super()._embed_prompts(boxes, masks)
        # As Sam2Model does it: where there is neither point nor box, a point that is none.
        count = 1 if masks is None else len(masks)
        points = torch.zeros(count, 1, 1, 2, device=self.device)
        labels = -torch.ones(count, 1, 1, dtype=torch.int32, device=self.device)
        sparse, dense = self.sam.prompt_encoder(points, labels, None, masks)
        return sparse[:, 0], dense

    def _decode(
        self, features: dict[str, Tensor], sparse: Tensor, dense: Tensor, multimask_output: bool
    ) -> Tensor:
        self.sam.mask_decoder.dynamic_multimask_via_stability = False
        return self._decode_prompts(
            *(features["embedding"], sparse, dense),
            multimask_output=multimask_output,
            high_resolution_features=[features[name] for name in _FINE],
        )

    def _list_unreached(self) -> list[nn.Module]:
        encoder = self.sam.prompt_encoder
        points = [] if self.use_box else [encoder.point_embed]
        return [*super()._list_unreached(), *points, self.sam.mask_decoder.pred_obj_score_head]
