"""The refiner over segment-anything itself; the only door to that package."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from segment_anything import sam_model_registry
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import Tensor, nn

from flmm.geometry import compute_sam_input_size
from flmm.masks.refiners.base import Refiner
from flmm.registry import MODELS
from flmm.weights import describe_mismatch

TINY_WEIGHTS = Path(__file__).parents[2] / "assets" / "tiny_sam.safetensors"
_WIDTH_TO_NAME = {96: "tiny", 768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
IMAGE_SIZE = 256
PATCH_SIZE = 16
EMBED_DIM = 64
# The ImageNet statistics of every segment-anything model, in 8-bit units.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


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


def build_sam(model_name: str, checkpoint: str | Path | None = None) -> Sam:
    """A ``Sam`` in eval mode; arguments as of :class:`SAMRefiner`.

    Raises:
        ValueError: the name is unknown, or the file holds no weights of that architecture.
        FileNotFoundError: the file does not exist.
    """
    builders = {**sam_model_registry, "tiny": build_tiny_sam}
    if model_name not in builders:
        raise ValueError(f"unknown SAM {model_name!r}: choose one of {', '.join(sorted(builders))}")
    if checkpoint is None and model_name == "tiny" and TINY_WEIGHTS.is_file():
        checkpoint = TINY_WEIGHTS
    weights = None if checkpoint is None else _load_weights(Path(checkpoint).expanduser())
    sam = builders[model_name]()
    if weights is None:
        print_log(
            f"SAM {model_name!r} has random weights: give a checkpoint",
            logger="current",
            level=logging.WARNING,
        )
    else:
        _check_architecture(sam, weights, model_name, checkpoint)
        sam.load_state_dict(weights)
    return sam.eval()


def tell_architecture(checkpoint: str | Path) -> str:
    """The ``model_name`` of a checkpoint's SAM, by its weights; raises as :func:`build_sam`."""
    weights = _load_weights(Path(checkpoint).expanduser())
    name = _name_architecture(weights)
    if name is None:
        raise ValueError(
            f"SAM checkpoint {checkpoint} holds no model of segment-anything's: give one of "
            f"{', '.join(_WIDTH_TO_NAME.values())}"
        )
    return name


def _name_architecture(weights: dict[str, Tensor]) -> str | None:
    width = weights.get("image_encoder.pos_embed", torch.empty(0)).shape[-1]
    return _WIDTH_TO_NAME.get(width)


def _load_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in ``path``, on the CPU; pickled code is never run."""
    if not path.is_file():
        raise FileNotFoundError(
            f"SAM checkpoint {path} does not exist: download it from "
            "https://github.com/facebookresearch/segment-anything#model-checkpoints or pass "
            "checkpoint=None for random weights"
        )
    try:
        if path.suffix == ".safetensors":
            weights: Any = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        raise ValueError(
            f"SAM checkpoint {path} cannot be read as a file of weights ({error}): "
            "download it again"
        ) from error
    if not isinstance(weights, dict) or not all(torch.is_tensor(item) for item in weights.values()):
        raise ValueError(
            f"SAM checkpoint {path} is no state dict (name to tensor): save sam.state_dict()"
        )
    return weights


def _check_architecture(
    sam: Sam, weights: dict[str, Tensor], model_name: str, checkpoint: str | Path | None
) -> None:
    problems = describe_mismatch(sam.state_dict(), weights)
    if not problems:
        return
    name = _name_architecture(weights)
    advice = "download it again" if name == model_name else f"it looks like model_name={name!r}"
    if name is None:
        advice = "give a checkpoint of segment-anything itself"
    raise ValueError(
        f"SAM checkpoint {checkpoint} does not hold a {model_name!r}: {len(problems)} tensors "
        f"cannot be used (for example {problems[0].strip()}): {advice}"
    )


def build_tiny_sam() -> Sam:
    """A ``Sam`` of 0.7 M parameters for frames of 256 px, with random weights, in eval mode."""
    image_encoder = ImageEncoderViT(  # three blocks with 8 x 8 windows, the last one global
        img_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        embed_dim=96,
        depth=4,
        num_heads=3,
        mlp_ratio=3,
        out_chans=EMBED_DIM,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=8,
        global_attn_indexes=(3,),
    )
    prompt_encoder = PromptEncoder(
        embed_dim=EMBED_DIM,
        image_embedding_size=(IMAGE_SIZE // PATCH_SIZE, IMAGE_SIZE // PATCH_SIZE),
        input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
        transformer_dim=EMBED_DIM,
        transformer=TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, num_heads=4, mlp_dim=192),
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=EMBED_DIM,
    )
    statistics = {"pixel_mean": list(PIXEL_MEAN), "pixel_std": list(PIXEL_STD)}
    return Sam(image_encoder, prompt_encoder, mask_decoder, **statistics).eval()
