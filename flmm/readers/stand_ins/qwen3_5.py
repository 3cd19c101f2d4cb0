"""Qwen3.5 around the embedded tokenizer, with the processor class of Qwen3-VL as published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

from flmm.readers.stand_ins.qwen import QwenStandIn

# Two layers of four with attention: the first ones alone are less than all.
_SMALL = {
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_SMALL_ROPE = {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
_ANSWER = "<|im_start|>assistant\n"
_NO_THOUGHT = "<think>\n\n</think>\n\n"


class Qwen3_5StandIn(QwenStandIn):
    """Keeps the size of any picture up to 16 megapixels.

    The template is that of the models up to 2B, which answer without a thought unless asked for
    one; larger ones think unless asked not to. Both leave the thoughts of earlier answers out.
    """

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Also the heads of the linear attention, and how much of a head rotates."""
        small = super().shrink(values)
        text = small["text_config"]
        text |= _SMALL
        text["rope_parameters"] |= _SMALL_ROPE
        if "shared_expert_intermediate_size" in text:
            text["shared_expert_intermediate_size"] = text["moe_intermediate_size"]
        return small

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """With the patches of these values."""
        embedded, vision = super().make_processor(values), values["vision_config"]
        sizes = {
            "patch_size": vision["patch_size"],
            "merge_size": vision["spatial_merge_size"],
            "temporal_patch_size": vision["temporal_patch_size"],
        }
        pictures = Qwen2VLImageProcessor(**sizes, size=embedded.image_processor.size)
        begun = f"{{% if enable_thinking is true %}}<think>\n{{% else %}}{_NO_THOUGHT}{{% endif %}}"
        return Qwen3VLProcessor(
            pictures,
            embedded.tokenizer,
            Qwen3VLVideoProcessor(**sizes),
            chat_template=embedded.chat_template.replace(_ANSWER, _ANSWER + begun),
        )
