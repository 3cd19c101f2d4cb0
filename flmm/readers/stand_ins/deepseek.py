"""DeepSeek-VL around bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import (
    DeepseekVLHybridImageProcessor,
    DeepseekVLHybridProcessor,
    DeepseekVLImageProcessor,
    DeepseekVLProcessor,
)

from flmm.readers.stand_ins.base import SMALL_VISION, StandIn, build_byte_tokenizer

# What transformers' convert_deepseek_vl_hybrid_weights_to_hf.py writes.
_TEMPLATE = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language.\n\n"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: "
    "{% for part in message['content'] %}"
    "{{ '<image_placeholder>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}"
    "{% if not loop.last or add_generation_prompt %}"
    "{{ '\n\n' if message['role'] == 'user' else eos_token }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_SMALL_SAM = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "mlp_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 128,
    "output_channels": 8,
    "window_size": 4,
    "global_attn_indexes": [1],
}


class DeepseekVLStandIn(StandIn):
    """DeepSeek-VL, plain and hybrid."""

    small_vision = SMALL_VISION | {"image_size": 64}

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Also the hybrid's second tower."""
        small = super().shrink(values)
        if "high_res_vision_config" in small:
            small["high_res_vision_config"] |= _SMALL_SAM
        return small

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Squares of the vision towers' sizes."""
        tokenizer = build_byte_tokenizer(image_token="<image_placeholder>")
        vision, high = values["vision_config"], values.get("high_res_vision_config")
        sizes = {"size": _square(vision["image_size"])}
        kinds: Any = DeepseekVLImageProcessor, DeepseekVLProcessor
        if high is not None:
            sizes["high_res_size"] = _square(high["image_size"])
            kinds = DeepseekVLHybridImageProcessor, DeepseekVLHybridProcessor
        build_pictures, build = kinds
        return build(
            build_pictures(**sizes),
            tokenizer,
            chat_template=_TEMPLATE,
            num_image_tokens=(vision["image_size"] // vision["patch_size"]) ** 2,
        )


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}
