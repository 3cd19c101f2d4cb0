"""The refiner over SAM-HQ: SAM with a token of its own for fine edges."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from flmm.masks.refiners.transformers_sam import TransformersRefiner
from flmm.registry import MODELS


@MODELS.register_module()
class SamHQRefiner(TransformersRefiner):
    """SAM-HQ (transformers' ``SamHQModel``), see :class:`TransformersRefiner`.

    Its masks are SAM's and the fine token's together, as published.
    """

    example = "syscv-community/sam-hq-vit-large"
    frozen = ("vision_encoder.", "shared_image_embedding.", "prompt_encoder.shared_embedding.")

    def _import_model(self) -> Any:
        from transformers import SamHQModel

        return SamHQModel

    def _build_processor(self) -> Any:
        from transformers import SamImageProcessor

        square = {"height": self.side, "width": self.side}
        return SamImageProcessor(size={"longest_edge": self.side}, pad_size=square)

    def _encode_frames(self, frames: Tensor) -> dict[str, Tensor]:
        embedding, layers = self.sam.get_image_embeddings(frames)
        return {"embedding": embedding, "first_global_layer": layers[0]}

    def _decode(
        self, features: dict[str, Tensor], sparse: Tensor, dense: Tensor, multimask_output: bool
    ) -> Tensor:
        return self._decode_prompts(
            *(features["embedding"], sparse, dense),
            multimask_output=multimask_output,
            hq_token_only=False,
            intermediate_embeddings=[features["first_global_layer"]],
        )

    def _list_unreached(self) -> list[nn.Module]:
        encoder = self.sam.prompt_encoder
        points = encoder.point_embed[: 2 if self.use_box else None]
        return [*super()._list_unreached(), *points, encoder.not_a_point_embed]
