"""The published sizes of Qwen-VL models, with random weights: what speed and memory depend on.

In: a published name, a number of layers. Out: a :class:`flmm.readers.qwen.FrozenQwen` of the real
classes and sizes with random weights and the embedded tokenizer, for benchmarks without a download.
Its masks mean nothing. Not its duty: measuring.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor

from flmm.readers.loading import TINY_FOLDER, build_random_model
from flmm.readers.qwen import FrozenQwen

# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
# vocab_size of the language model; depth, hidden_size, intermediate_size of the vision tower.
# Source: config.json of each model on the hub.
LAYOUTS = {
    "Qwen2-VL-2B": ("qwen2_vl", (1536, 8960, 28, 12, 2, 151936), (32, 1280, 5120)),
    "Qwen2-VL-7B": ("qwen2_vl", (3584, 18944, 28, 28, 4, 152064), (32, 1280, 5120)),
    "Qwen2.5-VL-3B": ("qwen2_5_vl", (2048, 11008, 36, 16, 2, 151936), (32, 1280, 3420)),
    "Qwen2.5-VL-7B": ("qwen2_5_vl", (3584, 18944, 28, 28, 4, 152064), (32, 1280, 3420)),
    "Qwen3-VL-4B": ("qwen3_vl", (2560, 9728, 36, 32, 8, 151936), (24, 1024, 4096)),
    "Qwen3-VL-8B": ("qwen3_vl", (4096, 12288, 36, 32, 8, 151936), (27, 1152, 4304)),
    # No published model, but one that fits a small machine; its vision tower takes the same share
    # of the work as that of Qwen2.5-VL-7B.
    "width-1024": ("qwen2_5_vl", (1024, 4096, 8, 8, 2, 151936), (4, 512, 1368)),
}
_TEXT_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
_VISION_HEADS = 16


def build_layout_config(name: str, layers: int | None = None) -> Any:
    """The config of a published layout, with the token ids of the embedded tokenizer.

    Args:
        name: a key of ``LAYOUTS``.
        layers: of the language model, and at most so many of the vision tower; ``None``: all.

    Raises:
        ValueError: there is no such layout.
    """
    if name not in LAYOUTS:
        raise ValueError(f"no layout {name!r}: choose one of {', '.join(LAYOUTS)}")
    family, text_sizes, (depth, vision_width, vision_intermediate) = LAYOUTS[name]
    text: dict[str, Any] = dict(zip(_TEXT_FIELDS, text_sizes))
    text["num_hidden_layers"] = layers or text["num_hidden_layers"]
    text |= {"max_position_embeddings": 131072, "tie_word_embeddings": text_sizes[0] <= 2560}
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [24, 20, 20] if family == "qwen3_vl" else [16, 24, 24],
    }
    if family == "qwen3_vl":
        text["head_dim"] = 128
        text["rope_parameters"]["mrope_interleaved"] = True
    depth = min(depth, layers or depth)
    vision: dict[str, Any] = {"depth": depth, "num_heads": _VISION_HEADS, "spatial_merge_size": 2}
    vision |= {"patch_size": 16 if family == "qwen3_vl" else 14, "temporal_patch_size": 2}
    vision |= _build_vision_fields(family, text["hidden_size"], vision_width, vision_intermediate)
    if family == "qwen2_5_vl":
        vision["fullatt_block_indexes"] = [i for i in range(depth) if i % 8 == 7] or [depth - 1]
    if family == "qwen3_vl":
        vision["deepstack_visual_indexes"] = list(range(min(3, depth)))
    tiny = AutoConfig.from_pretrained(TINY_FOLDER, trust_remote_code=False)
    ids = {
        key: getattr(tiny, key)
        for key in (
            "image_token_id",
            "video_token_id",
            "vision_start_token_id",
            "vision_end_token_id",
        )
    }
    tie = text["tie_word_embeddings"]
    return AutoConfig.for_model(
        family, text_config=text, vision_config=vision, tie_word_embeddings=tie, **ids
    )


def _build_vision_fields(
    family: str, text_width: int, width: int, intermediate: int
) -> dict[str, Any]:
    if family == "qwen2_vl":
        return {"embed_dim": width, "hidden_size": text_width, "mlp_ratio": intermediate // width}
    return {"hidden_size": width, "intermediate_size": intermediate, "out_hidden_size": text_width}


def build_layout_reader(
    name: str,
    layers: int | None = None,
    dtype: str = "float32",
    attn_implementation: str = "sdpa",
    max_pixels: int = 16384 * 32 * 32,
    device: str | torch.device = "cpu",
) -> FrozenQwen:
    """A reader of a published layout with random weights; always the same ones on a kind of device.

    Args:
        name, layers: see :func:`build_layout_config`.
        dtype: of the weights.
        attn_implementation: of the prefill.
        max_pixels: greatest H'*W' of the input; smaller pictures keep their size.
        device: where the weights are drawn; each kind of device draws its own.
    """
    config = build_layout_config(name, layers)
    processor = AutoProcessor.from_pretrained(TINY_FOLDER, trust_remote_code=False)
    processor.image_processor.patch_size = config.vision_config.patch_size
    with torch.device(device):
        model = build_random_model(config, dtype, attn_implementation, seed=0)
    return FrozenQwen.from_model(model, processor, min_pixels=32 * 32, max_pixels=max_pixels)


__all__ = ["LAYOUTS", "build_layout_config", "build_layout_reader"]
