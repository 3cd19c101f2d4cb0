"""CogVLM and CogVLM2 without code of their own: their vision tower before a Llama with experts.

A picture is squashed to a square; its cells stand between two border tokens, and share one
position. Published configs and key names are taken as they are.

Source: arXiv 2311.03079; modeling_cogvlm.py of THUDM/cogvlm2-llama3-chat-19B and cogvlm-chat-hf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedModel
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import BaseModelOutputWithPast

from flmm.readers.own_models.base import FindFile, OwnModel
from flmm.readers.own_models.cogvlm_experts import ExpertLlama, choose_experts
from flmm.readers.own_models.cogvlm_processor import load_tokenizer, make_processor
from flmm.readers.own_models.cogvlm_vision import CogVLMVision, CogVLMVisionConfig
from flmm.readers.own_models.vision_language import (
    SquareProcessor,
    VisionLanguageConfig,
    WithLanguageHead,
)


class CogVLMConfig(VisionLanguageConfig):
    """Of both generations; ``text_config.attention_bias`` is that of the vision experts.

    ``template_version`` is ``"chat"``, ``"vqa"`` or ``"base"``, as published.
    """

    model_type = "cogvlm"
    sub_configs = {"text_config": LlamaConfig, "vision_config": CogVLMVisionConfig}
    template_version: str = "chat"


def locate_tokens(is_image: Tensor) -> Tensor:
    """Positions of tokens ``[B, R]``: a picture's cells share one, its borders are as text."""
    inner = torch.zeros_like(is_image)
    inner[:, 1:-1] = is_image[:, :-2] & is_image[:, 1:-1] & is_image[:, 2:]
    steps = torch.ones_like(is_image, dtype=torch.int64)
    steps[:, 1:] -= (inner[:, 1:] & inner[:, :-1]).long()
    return steps.cumsum(1) - 1


class CogVLMModel(PreTrainedModel):
    """Tower and decoder."""

    config_class = CogVLMConfig
    _supports_sdpa = _supports_flash_attn = True

    def __init__(self, config: CogVLMConfig) -> None:
        super().__init__(config)
        text = config.text_config
        self.vision = CogVLMVision(config.vision_config, text.hidden_size, text.intermediate_size)
        self.language_model = ExpertLlama(text)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        position_ids: Tensor | None = None,
        **inputs: Any,
    ) -> BaseModelOutputWithPast:
        """What Llama gives.

        Args:
            input_ids: ``[B, R]``, with an image token for each token that the tower makes.
            pixel_values: ``[n, 3, side, side]``, of the pictures in order.
            position_ids: ``[B, R]``; ``None``: as :func:`locate_tokens` says of a whole sequence.
            inputs: further arguments of Llama.
        """
        embeddings = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            is_image = input_ids == self.config.image_token_id
            seen = self.vision(pixel_values).to(embeddings)
            embeddings = embeddings.masked_scatter(is_image[..., None], seen)
            inputs["experts"] = choose_experts(is_image)
            position_ids = locate_tokens(is_image) if position_ids is None else position_ids
        return self.language_model(inputs_embeds=embeddings, position_ids=position_ids, **inputs)


class CogVLMForConditionalGeneration(WithLanguageHead):
    """With the language head."""

    config_class = CogVLMConfig
    model_class = CogVLMModel

    def _prepare_position_ids_for_generation(
        self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]
    ) -> Tensor:
        return locate_tokens(inputs_tensor == self.config.image_token_id)


# What stands in the code of a generation alone, or may be missing in its config.json.
_FIRST = {"rope_theta": 1e4, "image_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SECOND = {
    "rope_theta": 5e5,
    "rms_norm_eps": 1e-5,
    "image_token_id": 128002,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}


def read_config(values: Mapping[str, Any]) -> CogVLMConfig:
    """Our config of the values of a published ``config.json``: CogVLM2's has grouped queries."""
    is_second = "num_multi_query_heads" in values
    known = {**(_SECOND if is_second else _FIRST), **values}
    own = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act"),
        *("initializer_range", "bos_token_id", "eos_token_id", "rope_theta"),
    )
    text = {name: known[name] for name in own if name in known}
    text |= {
        "num_key_value_heads": values.get("num_multi_query_heads"),
        "attention_bias": is_second,
    }
    tower = {"num_attention_heads": values["vision_config"]["num_heads"]} | values["vision_config"]
    names = CogVLMVisionConfig.__annotations__
    vision = {name: tower[name] for name in names if name in tower}
    optional = {"template_version", "quantization_config"} & set(values)
    return CogVLMConfig(
        text_config=text,
        vision_config=vision | {"merge_size": 2 if is_second else 1},
        image_token_id=known["image_token_id"],
        dtype=values.get("torch_dtype"),
        **{name: values[name] for name in optional},
    )


def build_processor(values: Mapping[str, Any], find_file: FindFile) -> SquareProcessor:
    """The processor of a published folder."""
    config = read_config(values)
    tokenizer = load_tokenizer(config.text_config, find_file)
    image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    return make_processor(tokenizer, image_token, config.vision_config, config.template_version)


COGVLM = OwnModel(
    config_class=CogVLMConfig,
    model_class=CogVLMForConditionalGeneration,
    processor_class=SquareProcessor,
    weights=[
        WeightRenaming(rf"^model\.{name}\.", rf"^model\.language_model\.{name}\.")
        for name in ("embed_tokens", "layers", "norm")
    ],
    recognises=lambda values: values.get("architectures") == ["CogVLMForCausalLM"],
    read_config=read_config,
    build_processor=build_processor,
)
