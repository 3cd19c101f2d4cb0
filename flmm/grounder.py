"""Joins the rooms: frozen reader, mask head and refiner, under mmengine's ``BaseModel``.

In: pictures as :class:`ImageInput` and phrases as :class:`GroundingSample`; out: losses, masks or
raw logits. It owns no algorithm of its own but the text projection between reader and refiner;
resizing is geometry's duty, attention the reader's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from flmm.geometry import crop_padding, resize_maps, resize_masks
from flmm.mmcv_ops import build_loss
from flmm.registry import MODELS
from flmm.structures import (
    Continuation,
    GroundingOutput,
    GroundingSample,
    ImageInput,
    compute_scores,
)

if TYPE_CHECKING:
    from flmm.heads import ImageEncoding, SAMRefiner, UNetHead
    from flmm.vlms.base import FrozenVLM, Prefix

_DEFAULT_LOSS_MASK = {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": True}
_DEFAULT_LOSS_DICE = {
    "type": "mmdet.DiceLoss",
    "use_sigmoid": True,
    "activate": True,
    "naive_dice": True,
    "eps": 1.0,
}


@MODELS.register_module()
class Grounder(BaseModel):
    """Masks of phrases from the attention of a frozen vision-language model.

    Args:
        model: the frozen reader, or its config (``dict(type="FrozenQwen", ...)``).
        mask_head: the mask head, or its config; ``in_channels`` is set from the reader's
            ``num_maps``.
        sam: the refiner, or its config; ``None`` grounds with the coarse mask alone.
        loss_mask: config of the pixel loss; default mmdet's sigmoid ``CrossEntropyLoss``.
        loss_dice: config of the region loss; default mmdet's naive ``DiceLoss`` with eps 1.
        data_preprocessor: as in mmengine; it only moves tensors here.

    Only the mask head, the text projection, the layer weights and the refiner's prompt encoder
    and mask decoder are trained and appear in ``state_dict()``. The losses (and mmdet with
    them) are built at the first call in mode "loss".

    Source: F-LMM, flmm/models/frozen_deepseek_vl.py. Deviations: attention comes from the
    reader's continuations instead of a full eager pass; true masks are resized without F-LMM's
    shift of half a cell (see ``geometry.resize_masks``).
    """

    def __init__(
        self,
        model: Any,
        mask_head: Any,
        sam: Any = None,
        loss_mask: dict[str, Any] | None = None,
        loss_dice: dict[str, Any] | None = None,
        data_preprocessor: Any = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.vlm: FrozenVLM = _build(model)
        self.mask_head: UNetHead = _build(mask_head, in_channels=self.vlm.num_maps)
        self.sam: SAMRefiner | None = None if sam is None else _build(sam)
        self.text_proj: nn.Linear | None = None
        self.text_layer_weights: nn.Parameter | None = None
        if self.sam is not None and self.sam.use_text:
            self.text_proj = nn.Linear(self.vlm.hidden_size, self.sam.embed_dim)
            self.text_layer_weights = nn.Parameter(torch.ones(self.vlm.num_layers))
        self._loss_cfgs = (loss_mask or _DEFAULT_LOSS_MASK, loss_dice or _DEFAULT_LOSS_DICE)
        self._losses: tuple[nn.Module, nn.Module] | None = None

    def forward(
        self,
        inputs: list[ImageInput],
        data_samples: list[GroundingSample] | None = None,
        mode: str = "tensor",
    ) -> dict[str, Tensor] | list[GroundingSample] | list[GroundingOutput]:
        """Run in one of mmengine's modes.

        Args:
            inputs: B pictures.
            data_samples: their phrases; in mode "loss" with ``gt_masks``.
            mode: "loss" gives a dict of losses and logged figures, "predict" the samples with
                ``pred_masks``, ``coarse_masks`` (bool ``[P, H, W]``), ``scores`` (``[P]``),
                "tensor" one :class:`GroundingOutput` per picture.

        Raises:
            ValueError: unknown mode, no data samples, or counts that differ.
        """
        if data_samples is None or len(data_samples) != len(inputs):
            count = 0 if data_samples is None else len(data_samples)
            raise ValueError(f"got {len(inputs)} pictures but {count} data samples: pass one each")
        if mode == "loss":
            return self.compute_loss(inputs, data_samples)
        if mode == "predict":
            return self.predict(inputs, data_samples)
        if mode == "tensor":
            continuations = [sample.continuations for sample in data_samples]
            return [self.ground(*pair) for pair in zip(inputs, continuations)]
        raise ValueError(f"mode is {mode!r}: use 'loss', 'predict' or 'tensor'")

    def ground(
        self,
        image: ImageInput,
        continuations: list[Continuation],
        prefix: Prefix | None = None,
        encoding: ImageEncoding | None = None,
    ) -> GroundingOutput:
        """Ground the phrases of one picture.

        Args:
            image: the picture.
            continuations: texts whose phrases are wanted.
            prefix: the reader's reading of the picture, if there is one already.
            encoding: the refiner's ``encode_image`` of the picture, if there is one already.
        """
        prefix = self.vlm.prefill(image) if prefix is None else prefix
        seen = self.vlm.attend(prefix, continuations)
        device = self.mask_head.conv_seg.weight.device
        maps = seen.maps.to(device)
        logits = self.mask_head(maps.to(self.mask_head.dtype))[:, 0].float()
        coarse = crop_padding(logits, image.meta_data)
        if self.sam is None:
            refined = resize_maps(coarse, image.original_size)
        else:
            words = self._embed_text(seen.text_features, device)
            refined = self.sam(image.image if encoding is None else encoding, coarse, words)
        return GroundingOutput(maps, coarse, refined)

    def _embed_text(self, text_features: list[Tensor], device: torch.device) -> list[Tensor] | None:
        """Per phrase ``[L, T, D]`` to ``[T, C]``: layers weighed, then projected."""
        if self.text_proj is None or self.text_layer_weights is None:
            return None
        weights = self.text_layer_weights.softmax(0).to(device)
        dtype = self.text_proj.weight.dtype
        return [
            self.text_proj(torch.einsum("l,ltd->td", weights, f.to(device).to(dtype)))
            for f in text_features
        ]

    @torch.no_grad()
    def predict(
        self, inputs: list[ImageInput], data_samples: list[GroundingSample]
    ) -> list[GroundingSample]:
        """Masks of every sample's phrases, written into the samples."""
        for image, sample in zip(inputs, data_samples):
            output = self.ground(image, sample.continuations)
            coarse = resize_maps(output.coarse_mask_logits, image.original_size)
            sample.pred_masks = output.refined_mask_logits > 0
            sample.coarse_masks = coarse > 0
            sample.scores = compute_scores(output.refined_mask_logits)
        return data_samples

    def compute_loss(
        self, inputs: list[ImageInput], data_samples: list[GroundingSample]
    ) -> dict[str, Tensor]:
        """Losses and logged figures, averaged over all phrases of the batch.

        Returns:
            ``loss_mask``, ``loss_dice``, ``accuracy``, ``aiou`` of the coarse masks and, with a
            refiner, the same with the prefix ``refined_``.
        """
        totals: dict[str, Tensor] = {}
        count = 0
        for image, sample in zip(inputs, data_samples):
            output = self.ground(image, sample.continuations)
            figures = self._compute_figures(output.coarse_mask_logits, sample.gt_masks)
            if self.sam is not None:
                refined = self._compute_figures(output.refined_mask_logits, sample.gt_masks)
                figures.update({f"refined_{key}": value for key, value in refined.items()})
            phrases = len(output.coarse_mask_logits)
            count += phrases
            for key, value in figures.items():
                totals[key] = totals.get(key, 0) + value * phrases
        return {key: value / count for key, value in totals.items()}

    def _compute_figures(self, mask_logits: Tensor, gt_masks: Tensor) -> dict[str, Tensor]:
        """Both losses, pixel accuracy and mean IoU of ``[P, h, w]`` logits."""
        if self._losses is None:
            mask_cfg, dice_cfg = self._loss_cfgs
            self._losses = build_loss(dict(mask_cfg)), build_loss(dict(dice_cfg))
        loss_mask, loss_dice = self._losses
        size = (mask_logits.shape[-2], mask_logits.shape[-1])
        gt_masks = resize_masks(gt_masks.to(mask_logits.device), size)
        logits, target = mask_logits.flatten(1), gt_masks.flatten(1).to(mask_logits)
        with torch.no_grad():
            found, true = logits > 0, target > 0.5
            union = (found | true).sum(1).clamp(min=1)
            figures = {
                "accuracy": (found == true).float().mean(),
                "aiou": ((found & true).sum(1) / union).mean(),
            }
        figures["loss_mask"] = loss_mask(
            logits.flatten(), target.flatten(), avg_factor=logits.numel()
        )
        figures["loss_dice"] = loss_dice(logits, target, avg_factor=len(logits))
        return figures


@MODELS.register_module()
class FrozenQwenSAM(Grounder):
    """:class:`Grounder` under the name F-LMM's users know; same arguments."""


def _build(module: Any, **defaults: Any) -> Any:
    """A ready module as it is, a config built; ``defaults`` fill in what it does not say."""
    return module if isinstance(module, nn.Module) else MODELS.build({**defaults, **module})
