"""What a refiner is: a coarse mask becomes a sharp one, prompted by itself, its box and the words.

The image encoder is frozen and reads a picture once; prompt encoder and mask decoder are trained.
What SAMs have in common is here, what each has of its own in the file of its name: nobody outside
this folder needs to know. Projecting the words is the grounder's duty.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from flmm.fingerprints import hash_tensors
from flmm.geometry import (
    Size,
    compute_boxes_xyxy,
    compute_sam_input_size,
    pad_to_square,
    resize_maps,
    scale_boxes,
)
from flmm.images import load_image
from flmm.masks.refiners.partly_frozen import PartlyFrozen
from flmm.weights import check_finite


@dataclass(frozen=True, eq=False)
class ImageEncoding:
    """A picture as the mask decoder of the refiner that encoded it sees it.

    Attributes:
        features: tensors ``[1, ...]`` by name, without gradient.
        original_size: (H, W) pixels of the picture as given.
        input_size: (h, w) pixels of the picture in the refiner's square frame, before padding.
    """

    features: dict[str, Tensor]
    original_size: Size
    input_size: Size


class Refiner(PartlyFrozen, ABC):
    """Refined mask logits from coarse ones.

    All phrases of a picture go through prompt encoder and mask decoder together, in groups of
    equal prompt length: the results are those of one phrase at a time. All that an encoding
    depends on is frozen, see :class:`PartlyFrozen`.

    Args:
        sam: the model; it stands in ``state_dict()`` under this name.
        side: pixels of its square frame.
        use_mask: prompt with the coarse logits.
        use_box: prompt with the box of the coarse mask; the whole picture where it is empty.
        use_text: prompt with the words.
        multimask_output: decode three masks and keep the one with the highest IoU with the
            coarse mask.

    Attributes:
        fills_frame: a picture is stretched over the frame; else its longest side fills it, and it
            is padded at the right and the bottom.
        embed_dim: width C of a prompt token.

    Source: F-LMM flmm/models/mask_head/mask_refiner.py. Deviations: the mask prompt is padded
    with the phrase's own minimum, not with the minimum over all phrases of the picture, so
    that a phrase's mask does not depend on its sisters; prompts are embedded in float32 even
    under autocast; the logits are float32.
    """

    fills_frame: ClassVar[bool] = False

    def __init__(
        self,
        sam: Any,
        side: int,
        use_mask: bool,
        use_box: bool,
        use_text: bool,
        multimask_output: bool,
    ) -> None:
        super().__init__(sam)
        if not (use_mask or use_box or use_text):
            name = type(self).__name__
            raise ValueError(
                f"{name} has no prompt: set at least one of use_mask, use_box and use_text"
            )
        self.side = side
        self.use_mask, self.use_box, self.use_text = use_mask, use_box, use_text
        self.multimask_output = multimask_output
        self.embed_dim: int = sam.mask_decoder.iou_token.weight.shape[1]
        height, width = sam.prompt_encoder.image_embedding_size
        self.mask_prompt_size: Size = (4 * height, 4 * width)
        # DDP would wait for their gradients in vain, and weight decay would shrink them.
        for module in self._list_unreached():
            module.requires_grad_(False)

    @abstractmethod
    def _build_frame(self, picture: Image.Image) -> Tensor:
        """Float32 ``[3, s, s]``: the picture resized, normalised and padded."""

    @abstractmethod
    def _encode_frames(self, frames: Tensor) -> dict[str, Tensor]:
        """Features ``[B, ...]`` of frames ``[B, 3, s, s]``, by name."""

    @abstractmethod
    def _embed_prompts(
        self, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """Sparse ``[P or 1, n, C]`` (``None``: there is none) and dense ``[P or 1, C, h, w]``.

        ``boxes [P, 4]`` are in pixels of the frame, ``masks [P, 1, *mask_prompt_size]`` logits.
        """

    @abstractmethod
    def _decode(
        self, features: dict[str, Tensor], sparse: Tensor, dense: Tensor, multimask_output: bool
    ) -> Tensor:
        """Low-resolution logits ``[P, 1 or 3, *mask_prompt_size]`` of prompts of one length."""

    @abstractmethod
    def _list_unreached(self) -> list[nn.Module]:
        """What has no part in the masks with these prompts."""

    @torch.no_grad()
    def encode(self, pictures: Sequence[Any], batch_size: int = 4) -> list[ImageEncoding]:
        """Read pictures of any sizes once, for many calls; so many of them in one pass."""
        encodings: list[ImageEncoding] = []
        for start in range(0, len(pictures), batch_size):
            batch = [load_image(picture) for picture in pictures[start : start + batch_size]]
            frames = torch.stack([self._build_frame(picture) for picture in batch])
            features = self._encode_frames(frames.to(self.device, self.dtype))
            for index, picture in enumerate(batch):
                own = {name: values[index : index + 1] for name, values in features.items()}
                encodings.append(self.unpack(own, (picture.height, picture.width)))
        return encodings

    def pack(self, encoding: ImageEncoding) -> dict[str, Tensor]:
        """What of an encoding must be kept, with the picture's size, to have it again."""
        return encoding.features

    def unpack(self, tensors: dict[str, Tensor], original_size: Size) -> ImageEncoding:
        """The encoding of a picture of ``original_size`` from what :meth:`pack` gave."""
        features = {name: values.to(self.device) for name, values in tensors.items()}
        size = (self.side, self.side)
        if not self.fills_frame:
            size = compute_sam_input_size(original_size, self.side)
        return ImageEncoding(features, original_size, size)

    def describe(self) -> dict[str, Any]:
        """What an encoding depends on but the picture, JSON-able; every frozen weight is hashed."""
        weights, size = hash_tensors(self.list_frozen())
        name = type(self).__name__
        return {"refiner": name, "side": self.side, "weights": weights, "weight_bytes": size}

    def refine(
        self,
        encoding: ImageEncoding,
        coarse_mask_logits: Tensor,
        words: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Refine the masks of the phrases of one picture.

        Args:
            encoding: of the picture.
            coarse_mask_logits: ``[P, h', w']``, any grid over the picture.
            words: per phrase ``[T_p, C]`` with ``C = embed_dim``; needed only with ``use_text``.

        Returns:
            float32 logits ``[P, H, W]``, original pixels. Gradients reach the coarse logits
            (through the mask prompt, not the box) and the words.
        """
        self._check_words(words, len(coarse_mask_logits))
        if len(coarse_mask_logits) == 0:
            return torch.zeros(0, *encoding.original_size, device=self.device)
        coarse = coarse_mask_logits.to(self.device).float()
        sizes = encoding.original_size, encoding.input_size
        boxes = self.build_box_prompts(coarse, *sizes) if self.use_box else None
        masks = self.build_mask_prompts(coarse, encoding.input_size) if self.use_mask else None
        prompts = self._embed(len(coarse), boxes, masks)
        candidates = self._decode_groups(encoding, prompts, words, self.multimask_output)
        logits = self._restore(candidates, encoding)
        if not self.multimask_output:
            return logits[:, 0]
        return _choose_candidates(logits, _binarise(coarse, encoding.original_size))

    def refine_boxes(self, encoding: ImageEncoding, boxes_xyxy: Tensor) -> Tensor:
        """Masks of boxes alone, whatever the refiner's own prompts are.

        Boxes ``[P, 4]`` and float32 logits ``[P, H, W]`` are in pixels of the picture as given.
        """
        if len(boxes_xyxy) == 0:
            return torch.zeros(0, *encoding.original_size, device=self.device)
        boxes = boxes_xyxy.to(self.device).float()
        boxes = scale_boxes(boxes, encoding.original_size, encoding.input_size)
        prompts = self._embed(len(boxes), boxes, None)
        masks = self._decode_groups(encoding, prompts, None, multimask_output=False)
        return self._restore(masks, encoding)[:, 0]

    def build_mask_prompts(self, coarse_mask_logits: Tensor, input_size: Size) -> Tensor:
        """Coarse logits ``[P, h', w']`` in the padded frame: ``[P, 1, *mask_prompt_size]``.

        Padding holds -1 or the phrase's own minimum, whichever is lower.
        """
        if self.fills_frame:
            return resize_maps(coarse_mask_logits, self.mask_prompt_size)[:, None]
        lowest = coarse_mask_logits.detach().flatten(1).amin(1).clamp(max=-1.0)
        inside = resize_maps(coarse_mask_logits, input_size)
        framed = pad_to_square(inside, self.side, lowest[:, None, None])
        return resize_maps(framed, self.mask_prompt_size)[:, None]

    @torch.no_grad()
    def build_box_prompts(
        self, coarse_mask_logits: Tensor, original_size: Size, input_size: Size
    ) -> Tensor:
        """Boxes of coarse masks ``[P, h', w']`` (empty: all), xyxy in pixels of the frame."""
        boxes = compute_boxes_xyxy(_binarise(coarse_mask_logits, original_size))
        whole = boxes.new_tensor([0, 0, original_size[1], original_size[0]])
        boxes = torch.where(boxes.isnan(), whole, boxes)
        return scale_boxes(boxes, original_size, input_size)

    def _embed(
        self, count: int, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Sparse ``[P, n, C]`` and dense ``[P, C, h, w]`` embeddings of so many prompts."""
        masks = None if masks is None else masks.to(self.dtype)
        with torch.autocast(self.device.type, enabled=False):
            sparse, dense = self._embed_prompts(boxes, masks)
        if sparse is None:
            sparse = dense.new_zeros(1, 0, self.embed_dim)
        # Without box and mask the prompt encoder does not know how many phrases there are.
        sparse, dense = sparse.expand(count, -1, -1), dense.expand(count, -1, -1, -1)
        return sparse.to(self.dtype), dense.to(self.dtype)

    def _decode_groups(
        self,
        encoding: ImageEncoding,
        prompts: tuple[Tensor, Tensor],
        words: Sequence[Tensor] | None,
        multimask_output: bool,
    ) -> Tensor:
        """:meth:`_decode` of all phrases, those with as many words together."""
        sparse, dense = prompts
        features = {name: values.to(sparse) for name, values in encoding.features.items()}
        groups: dict[int, list[int]] = defaultdict(list)
        for phrase in range(len(sparse)):
            groups[0 if words is None else len(words[phrase])].append(phrase)
        decoded = []
        for members in groups.values():
            own = sparse[members]
            if words is not None:
                tokens = torch.stack([words[phrase] for phrase in members]).to(own)
                own = torch.cat([own, tokens], dim=1)
            decoded.append(self._decode(features, own, dense[members], multimask_output))
        order = torch.tensor([phrase for members in groups.values() for phrase in members])
        masks = torch.cat(decoded)[order.argsort().to(self.device)]
        if not self.training:
            check_finite(masks, "what SAM's mask decoder gives")
        return masks

    def _restore(self, masks: Tensor, encoding: ImageEncoding) -> Tensor:
        """Low-resolution logits ``[P, k, h, w]`` over the frame as float32 ``[P, k, H, W]``."""
        masks = masks.float()
        if not self.fills_frame:
            height, width = encoding.input_size
            masks = resize_maps(masks, (self.side, self.side))[..., :height, :width]
        return resize_maps(masks, encoding.original_size)

    def _check_words(self, words: Sequence[Tensor] | None, count: int) -> None:
        name = type(self).__name__
        if not self.use_text and words is not None:
            raise ValueError(f"this {name} takes no words: build it with use_text=True")
        if self.use_text and len(words or ()) != count:
            raise ValueError(
                f"got the words of {len(words or ())} phrases for {count} phrases: give one "
                f"[T, {self.embed_dim}] tensor per phrase or build with use_text=False"
            )
        for item in words or ():
            if item.ndim != 2 or item.shape[1] != self.embed_dim:
                raise ValueError(
                    f"got words of shape {tuple(item.shape)}, expected [T, {self.embed_dim}]: "
                    f"project them to the embed_dim of {name}"
                )


def _binarise(coarse: Tensor, size: Size) -> Tensor:
    """Bool ``[P, *size]``: coarse foreground probability over one half after resizing."""
    return resize_maps(coarse.detach().float().sigmoid(), size) > 0.5


def _choose_candidates(logits: Tensor, coarse_masks: Tensor) -> Tensor:
    """The candidate of ``[P, 3, H, W]`` with the highest IoU with bool ``[P, H, W]``."""
    candidates, coarse = logits.detach() > 0, coarse_masks[:, None]
    intersections = (candidates & coarse).sum((-2, -1))
    unions = (candidates | coarse).sum((-2, -1)).clamp(min=1)
    best = (intersections / unions).argmax(1)
    return logits[torch.arange(len(logits), device=logits.device), best]
