"""Small random models of the real classes of every family, with the real processors.

The configs of Qwen-VL are the published ones, shrunk: token ids, vocabulary, patch sizes and
position encoding stay, layers and widths do not. The other families have the real tokenizers and
chat templates, and image processors of the real classes that make smaller tiles. Weights are wide
enough for attention to be far from uniform.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessor,
    GenerationConfig,
    GotOcr2ImageProcessor,
    Idefics3ImageProcessor,
    LlavaImageProcessor,
    LlavaNextImageProcessor,
    PreTrainedModel,
)

FAMILY_FOLDERS = {
    "qwen2_vl": "Qwen2_VL",
    "qwen2_5_vl": "Qwen2_5_VL",
    "qwen3_vl": "Qwen3_VL",
    "qwen3_vl_moe": "Qwen3_VL",
}
OTHER_FOLDERS = {
    "llava_padded": "llava",
    "llava_cropped": "llava",
    "llava_next": "llava_next",
    "internvl": "internvl",
    "idefics3": "idefics3",
}
ALL_FAMILIES = (*FAMILY_FOLDERS, *OTHER_FOLDERS)
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.2,
}
_MIXTURE = {
    "model_type": "qwen3_vl_moe_text",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
}
_VISION = {"depth": 3, "num_heads": 2, "initializer_range": 0.15}
TILE_PX = 56
_PINPOINTS = [
    [TILE_PX * height, TILE_PX * width]
    for height, width in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
]


@functools.cache
def load_processor(data_dir: Path, family: str) -> Any:
    """The real unified processor of a family."""
    if family in FAMILY_FOLDERS:
        return AutoProcessor.from_pretrained(data_dir / "qwen" / FAMILY_FOLDERS[family])
    processor = AutoProcessor.from_pretrained(data_dir / "processors" / OTHER_FOLDERS[family])
    square = {"height": TILE_PX, "width": TILE_PX}
    sizes = {"size": {"shortest_edge": TILE_PX}, "crop_size": square}
    if family == "llava_padded":
        processor.image_processor = LlavaImageProcessor(**sizes, do_pad=True)
    elif family == "llava_cropped":
        processor.image_processor = CLIPImageProcessor(**sizes)
    elif family == "llava_next":
        processor.image_processor = LlavaNextImageProcessor(
            **sizes, image_grid_pinpoints=_PINPOINTS
        )
    elif family == "idefics3":
        # 150: no whole tiles, where transformers' own count of tiles is at times wrong
        sizes = {"size": {"longest_edge": 150}, "max_image_size": {"longest_edge": TILE_PX}}
        processor.image_processor = Idefics3ImageProcessor(**sizes)
        processor.image_seq_len = 4
    else:
        processor.image_processor = GotOcr2ImageProcessor(size=square, max_patches=6)
        processor.image_seq_length = 4
    return processor


def build_small_config(data_dir: Path, family: str, **text_overrides: Any) -> Any:
    """The config of a family with few, narrow layers."""
    if family in OTHER_FOLDERS:
        return _build_other_config(data_dir, family, text_overrides)
    path = data_dir / "qwen" / FAMILY_FOLDERS[family] / "config.json"
    values = json.loads(path.read_text())
    values.pop("torch_dtype", None)
    text = values if family.startswith("qwen2") else values["text_config"]
    hidden_size = text_overrides.get("hidden_size", _TEXT["hidden_size"])
    text.update(_TEXT | {"dtype": "float32"} | text_overrides)
    if family.startswith("qwen2"):
        text.pop("head_dim")  # these families derive it
    text["rope_scaling"] |= {"mrope_section": [2, 3, 3]}
    values["vision_config"].update(_VISION | _small_vision(family, hidden_size))
    if family == "qwen3_vl_moe":
        values |= {"model_type": family, "architectures": ["Qwen3VLMoeForConditionalGeneration"]}
        values["text_config"] |= _MIXTURE
        values["vision_config"]["model_type"] = "qwen3_vl_moe_vision"
    return AutoConfig.for_model(**values)


def _build_other_config(data_dir: Path, family: str, text_overrides: dict[str, Any]) -> Any:
    tokenizer = load_processor(data_dir, family).tokenizer
    text = {"llava_next": "mistral", "internvl": "qwen2"}.get(family, "llama")
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "eos_token_id")}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 8192, **ids}
    values = {"model_type": text, **_TEXT, **sizes, "sliding_window": None} | text_overrides
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    vision |= {"num_attention_heads": 2, "initializer_range": 0.15}
    more: dict[str, Any] = {"image_token_id": load_processor(data_dir, family).image_token_id}
    if family == "internvl":
        vision |= {"model_type": "internvl_vision", "patch_size": [14, 14]}
        vision["image_size"] = [TILE_PX, TILE_PX]
    elif family == "idefics3":
        vision |= {"model_type": "idefics3_vision", "patch_size": 14, "image_size": TILE_PX}
    else:
        vision |= {"model_type": "clip_vision_model", "patch_size": 14, "image_size": TILE_PX}
        vision |= {"projection_dim": 32, "initializer_factor": 3.0}
    if family == "llava_next":
        more["image_grid_pinpoints"] = _PINPOINTS
    return AutoConfig.for_model(
        OTHER_FOLDERS[family], text_config=values, vision_config=vision, **more
    )


def _small_vision(family: str, hidden_size: int) -> dict[str, Any]:
    if family == "qwen2_vl":
        return {"embed_dim": 32, "hidden_size": hidden_size, "mlp_ratio": 2}
    small = {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": hidden_size}
    if family == "qwen2_5_vl":
        return small | {"fullatt_block_indexes": [1]}
    return small | {"deepstack_visual_indexes": [0, 1]}


def build_small_model(data_dir: Path, family: str, **text_overrides: Any) -> PreTrainedModel:
    """A float32 random model of the family's real class; always the same weights."""
    config = build_small_config(data_dir, family, **text_overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa"
        )
    if family in FAMILY_FOLDERS:
        folder = data_dir / "qwen" / FAMILY_FOLDERS[family]
        model.generation_config = GenerationConfig.from_pretrained(folder)
    else:
        model.generation_config.eos_token_id = config.get_text_config().eos_token_id
    return model.eval()


def save_small_folder(data_dir: Path, family: str, folder: Path) -> Path:
    """A folder with config, weights, tokenizer and processor, as a hub snapshot has them."""
    build_small_model(data_dir, family).save_pretrained(folder)
    load_processor(data_dir, family).save_pretrained(folder)
    return folder
