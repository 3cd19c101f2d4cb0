"""Qwen-VL and Qwen-VL-Chat, the first generation: transformers' Qwen2 decoder behind an own tower.

The published decoder is Qwen2's within the 2,048 tokens (``seq_length``) that it was trained with;
behind them it rescales positions (dynamic NTK) and queries (log-n), which this does not: longer
texts are refused. What stands between ``<img>`` and ``</img>`` never reaches the model, whose 256
embeddings there all are the picture's. Source: arXiv 2308.12966, modeling_qwen.py beside the
published weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, Qwen2Config
from transformers import initialization as init
from transformers.core_model_loading import Split, WeightConverter, WeightRenaming

from flmm.readers.own_models.base import OwnModel
from flmm.readers.own_models.qwen_vl_processor import build_processor
from flmm.readers.own_models.qwen_vl_tower import Resampler, VisionTower, build_sine_table
from flmm.readers.own_models.vision_language import (
    SquareProcessor,
    VisionLanguageConfig,
    WithLanguageHead,
)


class QwenVLVisionConfig(PreTrainedConfig):
    """Sizes of the vision tower; as published where nothing is said."""

    model_type = "qwen_vl_vision"
    base_config_key = "vision_config"
    hidden_size: int = 1664
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    mlp_ratio: float = 4.9231
    image_size: int = 448
    patch_size: int = 14
    num_queries: int = 256
    output_dim: int = 4096
    initializer_range: float = 0.02


class QwenVLConfig(VisionLanguageConfig):
    """Tower and language model; ``image_token_id`` is ``<imgpad>``."""

    model_type = "qwen_vl"
    sub_configs = {"text_config": Qwen2Config, "vision_config": QwenVLVisionConfig}
    image_token_id: int = 151859


class QwenVLModel(PreTrainedModel):
    """Tower and decoder, without the language head."""

    config_class = QwenVLConfig
    _supports_sdpa = _supports_flash_attn = True
    _no_split_modules = ["Qwen2DecoderLayer", "VisionBlock", "Resampler"]

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__(config)
        self.visual = VisionTower(config.vision_config)
        self.language_model = AutoModel.from_config(config.text_config, trust_remote_code=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.vision_config.initializer_range
        if isinstance(module, VisionTower):
            init.normal_(module.positional_embedding, std=std)
            init.normal_(module.proj, std=module.proj.shape[0] ** -0.5)
        elif isinstance(module, Resampler):
            queries, width = module.pos_embed.shape
            init.normal_(module.query, std=std)
            init.copy_(module.pos_embed, build_sine_table(int(queries**0.5), width))

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        cell_weights: list[Tensor] | None = None,
        **inputs: Any,
    ) -> Any:
        """Tokens ``[B, S]`` in which each picture of ``[N, 3, H, W]`` has its image tokens.

        ``cell_weights`` as in :class:`VisionTower`.
        """
        embeddings = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            places = (input_ids == self.config.image_token_id)[..., None].expand_as(embeddings)
            seen = self.visual(pixel_values, cell_weights).to(embeddings)
            embeddings = embeddings.masked_scatter(places, seen)
        return self.language_model(inputs_embeds=embeddings, **inputs)


class QwenVLForConditionalGeneration(WithLanguageHead):
    """Qwen-VL with its language head."""

    config_class = QwenVLConfig
    model_class = QwenVLModel


def read_config(values: Mapping[str, Any]) -> QwenVLConfig:
    """Our config of the values of a published ``config.json``."""
    seen = values["visual"]
    text = {
        "vocab_size": values["vocab_size"],
        "hidden_size": values["hidden_size"],
        "intermediate_size": values["intermediate_size"] // 2,
        "num_hidden_layers": values["num_hidden_layers"],
        "num_attention_heads": values["num_attention_heads"],
        "num_key_value_heads": values["num_attention_heads"],
        "rms_norm_eps": values["layer_norm_epsilon"],
        "max_position_embeddings": values["seq_length"],
        "rope_theta": float(values["rotary_emb_base"]),
        "tie_word_embeddings": False,
    }
    vision = {
        "hidden_size": seen["width"],
        "num_hidden_layers": seen["layers"],
        "num_attention_heads": seen["heads"],
        "num_queries": seen.get("n_queries", QwenVLVisionConfig.num_queries),
        **{name: seen[name] for name in ("mlp_ratio", "image_size", "patch_size", "output_dim")},
    }
    more = {name: values[name] for name in ("quantization_config",) if name in values}
    return QwenVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=seen["image_start_id"] + 2,
        dtype=values.get("torch_dtype"),
        **more,
    )


_OF_A_LAYER = {
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "attn.c_attn": "attn.c_attn",  # cut below
    "mlp.w2": "mlp.gate_proj",
    "mlp.w1": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
WEIGHTS: list[WeightConverter | WeightRenaming] = [
    WeightRenaming(r"^transformer\.visual\.", r"^model\.visual\."),
    WeightRenaming(r"^transformer\.wte\.", r"^model\.language_model\.embed_tokens\."),
    WeightRenaming(r"^transformer\.ln_f\.", r"^model\.language_model\.norm\."),
    *(
        WeightRenaming(
            rf"^transformer\.h\.(\d+)\.{theirs}\.", rf"^model.language_model.layers.\1.{ours}."
        )
        for theirs, ours in _OF_A_LAYER.items()
    ),
    WeightConverter(
        "attn.c_attn", [f"self_attn.{name}_proj" for name in "qkv"], operations=[Split(dim=0)]
    ),
]
QWEN_VL = OwnModel(
    config_class=QwenVLConfig,
    model_class=QwenVLForConditionalGeneration,
    processor_class=SquareProcessor,
    weights=WEIGHTS,
    recognises=lambda values: values.get("model_type") == "qwen" and "visual" in values,
    read_config=read_config,
    build_processor=build_processor,
)
