"""A Segment Anything model of toy size, built from segment-anything's own modules."""

from __future__ import annotations

from functools import partial

from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import nn

IMAGE_SIZE = 256
PATCH_SIZE = 16
EMBED_DIM = 64
# The ImageNet statistics of every segment-anything model, in 8-bit units.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


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
