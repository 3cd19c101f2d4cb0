"""The mask refiner: Segment Anything, prompted by a coarse mask, its box and the phrase's words.

In: a picture, coarse mask logits ``[P, h', w']`` that cover it (padding removed) and text
embeddings per phrase; out: mask logits ``[P, H, W]`` in original pixels. The only door to
segment-anything. The image encoder is frozen and read once per picture; the prompt encoder and
the mask decoder are trained. Projecting the words is the grounder's duty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from flmm.geometry import (
    Size,
    compute_boxes_xyxy,
    compute_sam_input_size,
    pad_to_square,
    resize_maps,
    scale_boxes,
)
from flmm.images import load_image
from flmm.masks.refiners.sam_weights import build_sam
from flmm.registry import MODELS
from flmm.weights import check_finite

ENCODER_PREFIX = "sam.image_encoder."


@dataclass(frozen=True, eq=False)
class ImageEncoding:
    """A picture as the mask decoder sees it; made by :meth:`SAMRefiner.encode_image`.

    Attributes:
        embedding: ``[1, C, s, s]``, without gradient.
        original_size: (H, W) pixels of the picture as given.
        input_size: (h, w) pixels of the picture in SAM's frame, before padding to a square.
    """

    embedding: Tensor
    original_size: Size
    input_size: Size


@MODELS.register_module()
class SAMRefiner(nn.Module):
    """Refined mask logits from coarse ones.

    All phrases of a picture go through the prompt encoder and the mask decoder together, in
    groups of equal prompt length: the results are those of one phrase at a time.

    The image encoder is in eval mode whatever ``train()`` is called on, has no gradient, and
    is left out of ``state_dict()``; loading a state dict without it is no error.
    ``refiner.sam.state_dict()`` still holds everything.

    Args:
        model_name: ``"vit_h"``, ``"vit_l"``, ``"vit_b"``, ``"default"`` (segment-anything's
            registry) or ``"tiny"``.
        checkpoint: file (``.pth`` or ``.safetensors``); ``None`` gives random weights, with a
            warning, and for ``"tiny"`` the embedded ones where the package has them.
        use_mask: prompt with the coarse logits.
        use_box: prompt with the box of the coarse mask; the whole picture where it is empty.
        use_text: prompt with the text embeddings.
        multimask_output: decode three masks and keep the one with the highest IoU with the
            coarse mask.

    Source: F-LMM flmm/models/mask_head/mask_refiner.py. Deviations: the mask prompt is padded
    with the phrase's own minimum, not with the minimum over all phrases of the picture, so
    that a phrase's mask does not depend on its sisters; prompts are embedded in float32 even
    under autocast; the logits are float32.

    Raises:
        ValueError: unknown model name, no prompt at all, or weights of another architecture.
        FileNotFoundError: the checkpoint does not exist.
    """

    def __init__(
        self,
        model_name: str,
        checkpoint: str | Path | None = None,
        use_mask: bool = True,
        use_box: bool = True,
        use_text: bool = True,
        multimask_output: bool = False,
    ) -> None:
        super().__init__()
        if not (use_mask or use_box or use_text):
            raise ValueError(
                "SAMRefiner has no prompt: set at least one of use_mask, use_box and use_text"
            )
        self.sam = build_sam(model_name, checkpoint)
        self.sam.image_encoder.requires_grad_(False)
        self.use_mask = use_mask
        self.use_box = use_box
        self.use_text = use_text
        self.multimask_output = multimask_output
        self._freeze_unreached()
        self.register_state_dict_post_hook(_drop_encoder_weights)
        self.register_load_state_dict_post_hook(_forgive_missing_encoder)

    @property
    def embed_dim(self) -> int:
        """Width C of a prompt token: 256, for the tiny model 64."""
        return self.sam.prompt_encoder.embed_dim

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.sam.mask_decoder.iou_token.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sam.mask_decoder.iou_token.weight.device

    def _freeze_unreached(self) -> None:
        """Do not train what has no part in the masks with these prompts.

        DDP would wait for its gradients in vain, and weight decay would shrink it.
        """
        encoder, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        boxes = [] if self.use_box else encoder.point_embeddings[2:]
        mask_prompts = encoder.no_mask_embed if self.use_mask else encoder.mask_downscaling
        networks = decoder.output_hypernetworks_mlps
        unreached = [encoder.not_a_point_embed, *encoder.point_embeddings[:2], *boxes]
        unreached += [mask_prompts, decoder.iou_prediction_head]
        unreached += networks[:1] if self.multimask_output else networks[1:]
        for module in unreached:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> SAMRefiner:
        """Set the mode of everything but the image encoder, which stays in eval mode."""
        super().train(mode)
        self.sam.image_encoder.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> SAMRefiner:
        """Move or cast, but keep the position frequencies in float32: they are phases."""
        pe_layer = self.sam.prompt_encoder.pe_layer
        frequencies = pe_layer.positional_encoding_gaussian_matrix
        super()._apply(fn, *args, **kwargs)
        moved = pe_layer.positional_encoding_gaussian_matrix
        if moved.dtype != frequencies.dtype:
            pe_layer.positional_encoding_gaussian_matrix = frequencies.to(moved.device)
        return self

    def forward(
        self,
        image: np.ndarray | Image.Image | ImageEncoding,
        coarse_mask_logits: Tensor,
        text_embeddings: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Refine the masks of the phrases of one picture.

        Args:
            image: uint8 RGB ``[H, W, 3]``, a PIL image, or :meth:`encode_image`'s result.
            coarse_mask_logits: ``[P, h', w']``, any grid over the picture.
            text_embeddings: per phrase ``[T_p, C]`` with ``C = embed_dim``; needed only with
                ``use_text``.

        Returns:
            float32 logits ``[P, H, W]``, original pixels. Gradients reach the coarse logits
            (through the mask prompt, not the box) and the text embeddings.

        Raises:
            ValueError: the number or the width of the text embeddings is wrong; or, outside of
                training, the logits are not finite.
        """
        text = self._check_text(text_embeddings, len(coarse_mask_logits))
        if len(coarse_mask_logits) == 0:
            size = image.original_size if isinstance(image, ImageEncoding) else _read_size(image)
            return torch.zeros(0, *size, device=self.device)
        encoding = image if isinstance(image, ImageEncoding) else self.encode_image(image)
        coarse = coarse_mask_logits.to(self.device).float()
        sparse, dense = self._encode_prompts(coarse, encoding)
        candidates = self._decode(encoding, sparse, dense, text)
        logits = self.sam.postprocess_masks(
            candidates.float(), encoding.input_size, encoding.original_size
        )
        if not self.multimask_output:
            return logits[:, 0]
        return _choose_candidates(logits, _binarise(coarse, encoding.original_size))

    def refine_boxes(
        self, image: np.ndarray | Image.Image | ImageEncoding, boxes_xyxy: Tensor
    ) -> Tensor:
        """Masks of boxes alone: segment-anything as it was published, one mask per box.

        Args:
            image: uint8 RGB ``[H, W, 3]``, a PIL image, or :meth:`encode_image`'s result.
            boxes_xyxy: float ``[P, 4]``, pixels of the picture as given.

        Returns:
            float32 logits ``[P, H, W]``, original pixels.

        Source: segment_anything.SamPredictor.predict with ``box`` and ``multimask_output=False``.
        """
        encoding = image if isinstance(image, ImageEncoding) else self.encode_image(image)
        if len(boxes_xyxy) == 0:
            return torch.zeros(0, *encoding.original_size, device=self.device)
        boxes = boxes_xyxy.to(self.device).float()
        boxes = scale_boxes(boxes, encoding.original_size, encoding.input_size)
        with torch.autocast(self.device.type, enabled=False):
            sparse, dense = self.sam.prompt_encoder(points=None, boxes=boxes, masks=None)
        masks = self._decode_prompts(encoding, sparse.to(self.dtype), dense.to(self.dtype), False)
        sizes = encoding.input_size, encoding.original_size
        return self.sam.postprocess_masks(masks.float(), *sizes)[:, 0]

    def encode_image(self, image: np.ndarray | Image.Image) -> ImageEncoding:
        """Read a picture (uint8 RGB ``[H, W, 3]`` or PIL) once, for many calls."""
        return self.encode_images([image])[0]

    @torch.no_grad()
    def encode_images(
        self, images: Sequence[np.ndarray | Image.Image], batch_size: int = 4
    ) -> list[ImageEncoding]:
        """Read pictures of any sizes, ``batch_size`` at a time.

        Args:
            images: uint8 RGB ``[H, W, 3]`` or PIL; each is padded to the same square.
            batch_size: pictures in one pass of the image encoder (memory grows with it).

        Raises:
            TypeError: an entry is neither uint8 RGB ``[H, W, 3]`` nor a PIL image.
        """
        side = self.sam.image_encoder.img_size
        encodings: list[ImageEncoding] = []
        for start in range(0, len(images), batch_size):
            pictures = [_to_pil(image) for image in images[start : start + batch_size]]
            sizes = [(picture.height, picture.width) for picture in pictures]
            input_sizes = [compute_sam_input_size(size, side) for size in sizes]
            frames = [self._build_frame(*pair) for pair in zip(pictures, input_sizes)]
            embeddings = self.sam.image_encoder(torch.stack(frames).to(self.dtype))
            rows = zip(embeddings.split(1), sizes, input_sizes)
            encodings += [ImageEncoding(*row) for row in rows]
        return encodings

    def build_mask_prompts(self, coarse_mask_logits: Tensor, input_size: Size) -> Tensor:
        """Coarse logits ``[P, h', w']`` in SAM's padded frame, at the prompt encoder's size.

        Returns:
            float32 logits ``[P, 1, 4s, 4s]`` for an image embedding of side ``s``; the padding
            holds -1 or the phrase's own minimum, whichever is lower.
        """
        lowest = coarse_mask_logits.detach().flatten(1).amin(1).clamp(max=-1.0)
        inside = resize_maps(coarse_mask_logits, input_size)
        side = self.sam.image_encoder.img_size
        framed = pad_to_square(inside, side, lowest[:, None, None])
        return resize_maps(framed, self.sam.prompt_encoder.mask_input_size)[:, None]

    @torch.no_grad()
    def build_box_prompts(
        self, coarse_mask_logits: Tensor, original_size: Size, input_size: Size
    ) -> Tensor:
        """Boxes of the coarse masks ``[P, h', w']`` in SAM's frame.

        Returns:
            float32 ``[P, 4]`` xyxy in pixels of SAM's frame; the whole picture where the mask
            is empty.
        """
        boxes = compute_boxes_xyxy(_binarise(coarse_mask_logits, original_size))
        whole = boxes.new_tensor([0, 0, original_size[1], original_size[0]])
        boxes = torch.where(boxes.isnan(), whole, boxes)
        return scale_boxes(boxes, original_size, input_size)

    def _build_frame(self, picture: Image.Image, input_size: Size) -> Tensor:
        """Float32 ``[3, s, s]``: the picture resized, normalised and padded."""
        resized = picture.resize(input_size[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).to(self.device)
        return self.sam.preprocess(pixels.permute(2, 0, 1).float())

    def _encode_prompts(self, coarse: Tensor, encoding: ImageEncoding) -> tuple[Tensor, Tensor]:
        """Sparse ``[P, 0 or 2, C]`` and dense ``[P, C, s, s]`` prompt embeddings."""
        boxes = masks = None
        if self.use_box:
            boxes = self.build_box_prompts(coarse, encoding.original_size, encoding.input_size)
        if self.use_mask:
            masks = self.build_mask_prompts(coarse, encoding.input_size).to(self.dtype)
        with torch.autocast(self.device.type, enabled=False):
            sparse, dense = self.sam.prompt_encoder(points=None, boxes=boxes, masks=masks)
        # Without box and mask the prompt encoder does not know how many phrases there are.
        sparse = sparse.expand(len(coarse), -1, -1)
        return sparse.to(self.dtype), dense.expand(len(coarse), -1, -1, -1).to(self.dtype)

    def _decode(
        self, encoding: ImageEncoding, sparse: Tensor, dense: Tensor, text: Sequence[Tensor]
    ) -> Tensor:
        """Low-resolution logits ``[P, 1 or 3, 4s, 4s]``, phrases of one length together."""
        groups: dict[int, list[int]] = defaultdict(list)
        for phrase in range(len(sparse)):
            groups[len(text[phrase]) if self.use_text else 0].append(phrase)
        decoded = []
        for members in groups.values():
            prompts = sparse[members]
            if self.use_text:
                words = torch.stack([text[phrase] for phrase in members]).to(prompts)
                prompts = torch.cat([prompts, words], dim=1)
            decoded.append(
                self._decode_prompts(encoding, prompts, dense[members], self.multimask_output)
            )
        order = torch.tensor([phrase for members in groups.values() for phrase in members])
        return torch.cat(decoded)[order.argsort().to(self.device)]

    def _decode_prompts(
        self, encoding: ImageEncoding, sparse: Tensor, dense: Tensor, multimask_output: bool
    ) -> Tensor:
        """Low-resolution logits ``[P, 1 or 3, 4s, 4s]`` of prompts of one length."""
        with torch.autocast(self.device.type, enabled=False):
            position = self.sam.prompt_encoder.get_dense_pe().to(self.dtype)
        masks, _ = self.sam.mask_decoder(
            image_embeddings=encoding.embedding.to(sparse),
            image_pe=position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
        )
        if not self.training:
            check_finite(masks, "what SAM's mask decoder gives")
        return masks

    def _check_text(
        self, text_embeddings: Sequence[Tensor] | None, num_phrases: int
    ) -> Sequence[Tensor]:
        if not self.use_text:
            return []
        text = [] if text_embeddings is None else text_embeddings
        if len(text) != num_phrases:
            raise ValueError(
                f"got {len(text)} text embeddings for {num_phrases} phrases: give one "
                f"[T, {self.embed_dim}] tensor per phrase or build with use_text=False"
            )
        for words in text:
            if words.ndim != 2 or words.shape[1] != self.embed_dim:
                raise ValueError(
                    f"got a text embedding of shape {tuple(words.shape)}, expected "
                    f"[T, {self.embed_dim}]: project the words to SAMRefiner.embed_dim"
                )
        return text


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


def _to_pil(image: np.ndarray | Image.Image) -> Image.Image:
    is_rgb = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,)
    if is_rgb or isinstance(image, Image.Image):
        return load_image(image)
    what = f" {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else ""
    raise TypeError(
        f"got {type(image).__name__}{what}, expected a PIL image or a uint8 RGB array "
        "[H, W, 3]: convert it first, for example with PIL's Image.convert('RGB')"
    )


def _read_size(image: np.ndarray | Image.Image) -> Size:
    picture = _to_pil(image)
    return picture.height, picture.width


def _drop_encoder_weights(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    """State-dict hook; torch's ``state_dict`` and mmengine's ``get_state_dict`` both run it."""
    for key in [key for key in state_dict if key.startswith(prefix + ENCODER_PREFIX)]:
        del state_dict[key]


def _forgive_missing_encoder(module: SAMRefiner, incompatible_keys: Any) -> None:
    """Load hook: the frozen encoder's weights are not missing (the hook is told no prefix)."""
    names = {ENCODER_PREFIX + name for name, _ in module.sam.image_encoder.named_parameters()}
    missing = incompatible_keys.missing_keys
    missing[:] = [key for key in missing if key[max(0, key.rfind(ENCODER_PREFIX)) :] not in names]
