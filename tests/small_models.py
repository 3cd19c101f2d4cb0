"""Small random models of the real Qwen-VL classes, with the real processors.

The configs are the published ones, shrunk: token ids, vocabulary, patch sizes and position
encoding stay, layers and widths do not. Weights are wide enough for attention to be far from
uniform.
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
    GenerationConfig,
    PreTrainedModel,
)

FAMILY_FOLDERS = {
    "qwen2_vl": "Qwen2_VL",
    "qwen2_5_vl": "Qwen2_5_VL",
    "qwen3_vl": "Qwen3_VL",
    "qwen3_vl_moe": "Qwen3_VL",
}
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


@functools.cache
def load_processor(data_dir: Path, family: str) -> Any:
    """The real unified processor of a family."""
    return AutoProcessor.from_pretrained(data_dir / "qwen" / FAMILY_FOLDERS[family])


def build_small_config(data_dir: Path, family: str, **text_overrides: Any) -> Any:
    """The published config of a family with few, narrow layers."""
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
    folder = data_dir / "qwen" / FAMILY_FOLDERS[family]
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def save_small_folder(data_dir: Path, family: str, folder: Path) -> Path:
    """A folder with config, weights, tokenizer and processor, as a hub snapshot has them."""
    build_small_model(data_dir, family).save_pretrained(folder)
    load_processor(data_dir, family).save_pretrained(folder)
    return folder
