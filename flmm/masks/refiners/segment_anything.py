"""The refiner over segment-anything itself; the only door to that package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from flmm.geometry import compute_sam_input_size
from flmm.masks.refiners.base import Refiner
from flmm.masks.refiners.sam_weights import build_sam
from flmm.registry import MODELS


@MODELS.register_module()
class SAMRefiner(Refiner):
    """Segment Anything, see :class:`Refiner`; raises as :func:`build_sam`.

    Args:
        model_name: ``"vit_h"``, ``"vit_l"``, ``"vit_b"``, ``"default"`` (segment-anything's
            registry) or ``"tiny"``.
        checkpoint: file (``.pth`` or ``.safetensors``); ``None`` gives random weights, with a
            warning, and for ``"tiny"`` the embedded ones where the package has them.
    """

    frozen = ("image_encoder.", "pixel_")

    def __init__(
        self,
        model_name: str,
        checkpoint: str | Path | None = None,
        use_mask: bool = True,
        use_box: bool = True,
        use_text: bool = True,
        multimask_output: bool = False,
    ) -> None:
        sam = build_sam(model_name, checkpoint)
        side = sam.image_encoder.img_size
        super().__init__(sam, side, use_mask, use_box, use_text, multimask_output)

    def _build_frame(self, picture: Image.Image) -> Tensor:
        height, width = compute_sam_input_size((picture.height, picture.width), self.side)
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).to(self.device)
        return self.sam.preprocess(pixels.permute(2, 0, 1).float())

    def _encode_frames(self, frames: Tensor) -> dict[str, Tensor]:
        return {"embedding": self.sam.image_encoder(frames)}

    def _embed_prompts(self, boxes: Tensor | None, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.sam.prompt_encoder(points=None, boxes=boxes, masks=masks)

    def _decode(
        self, features: dict[str, Tensor], sparse: Tensor, dense: Tensor, multimask_output: bool
    ) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            position = self.sam.prompt_encoder.get_dense_pe().to(self.dtype)
        masks, _ = self.sam.mask_decoder(
            image_embeddings=features["embedding"],
            image_pe=position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
        )
        return masks

    def _list_unreached(self) -> list[nn.Module]:
        encoder, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        points, networks = encoder.point_embeddings, decoder.output_hypernetworks_mlps
        return [
            *(encoder.not_a_point_embed, decoder.iou_prediction_head),
            encoder.no_mask_embed if self.use_mask else encoder.mask_downscaling,
            *points[: 2 if self.use_box else None],
            *(networks[:1] if self.multimask_output else networks[1:]),
        ]
