"""GLM-4.xV around a byte-level tokenizer with GLM's control tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import (
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
)

from flmm.readers.stand_ins.base import SMALL_TEXT, StandIn, build_byte_tokenizer

_OF_46V = (Glm46VProcessor, Glm46VImageProcessor, Glm46VVideoProcessor)
_OF_OTHERS = (Glm4vProcessor, Glm4vImageProcessor, Glm4vVideoProcessor)
_CONTROLS = ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>")
_FENCES = {"image_start_token_id": "<|begin_of_image|>", "image_end_token_id": "<|end_of_image|>"}
_OF_VIDEOS = ("<|begin_of_video|>", "<|end_of_video|>")
# As the published one of GLM-4.1V, which writes an answer's content as it is given.
_TEMPLATE = """[gMASK]<sop>
{%- for message in messages -%}
{%- if message.role == 'user' -%}
<|user|>{{ '\\n' }}
{%- for item in message.content -%}
{%- if item.type == 'image' -%}<|begin_of_image|><|image|><|end_of_image|>
{%- else -%}{{- item.text -}}{%- endif -%}
{%- endfor -%}
{%- else -%}<|assistant|>{{ '\\n' }}{{- message.content -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{{ '\\n' }}{%- endif -%}"""


class Glm4vStandIn(StandIn):
    """Any aspect ratio, few tokens where it is shrunk."""

    small_text: ClassVar[Mapping[str, Any]] = SMALL_TEXT | {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 0.5,
        }
    }
    small_vision: ClassVar[Mapping[str, Any]] = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": SMALL_TEXT["hidden_size"],
        "initializer_range": 0.15,
    }
    small_experts: ClassVar[Mapping[str, Any]] = {
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
    }

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Also the experts of a mixture."""
        small = super().shrink(values)
        if "n_routed_experts" in small["text_config"]:
            small["text_config"] |= self.small_experts
        return small

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """With the patches of these values."""
        vision = values["vision_config"]
        whole, pictures, videos = _OF_46V if values["model_type"] == "glm46v" else _OF_OTHERS
        return whole(
            pictures(patch_size=vision["patch_size"], merge_size=vision["spatial_merge_size"]),
            build_byte_tokenizer(
                *_CONTROLS,
                *_FENCES.values(),
                *_OF_VIDEOS,
                image_token="<|image|>",
                video_token="<|video|>",
            ),
            videos(),
            chat_template=_TEMPLATE,
        )

    def find_token_ids(self, processor: Any) -> dict[str, int]:
        """Also those before and behind a picture."""
        ids = {name: getattr(processor, name) for name in ("image_token_id", "video_token_id")}
        fences = processor.tokenizer.convert_tokens_to_ids(list(_FENCES.values()))
        return ids | dict(zip(_FENCES, fences))
