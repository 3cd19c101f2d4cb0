"""Pixtral and Mistral 3 around a byte-level tokenizer with Mistral's control tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PixtralImageProcessor, PixtralProcessor

from flmm.readers.stand_ins.base import StandIn, build_byte_tokenizer

SMALL_SIDE = 12  # of the largest picture, in image tokens
_BEGIN = "{{- bos_token -}}"
_SYSTEM = "{{- '[SYSTEM_PROMPT]You are a helpful assistant.[/SYSTEM_PROMPT]' -}}"
# As mistral-common writes turns: no blanks around control tokens.
_TURNS = """
{%- for message in messages -%}
{%- if message.role == 'user' -%}[INST]{%- endif -%}
{%- for item in message.content -%}
{%- if item.type == 'image' -%}[IMG]{%- else -%}{{- item.text -}}{%- endif -%}
{%- endfor -%}
{%- if message.role == 'user' -%}[/INST]{%- else -%}{{- eos_token -}}{%- endif -%}
{%- endfor -%}"""


class PixtralStandIn(StandIn):
    """Mistral 3 begins with a system prompt, Pixtral with the user's turn."""

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Patches keep their size, the largest picture has few."""
        small = super().shrink(values)
        cell = small["vision_config"]["patch_size"] * small.get("spatial_merge_size", 1)
        small["vision_config"]["image_size"] = SMALL_SIDE * cell
        return small

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Pictures up to the vision tower's size."""
        vision, merge = values["vision_config"], values.get("spatial_merge_size", 1)
        system = _SYSTEM if values["model_type"] == "mistral3" else ""
        controls = ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
        return PixtralProcessor(
            PixtralImageProcessor(
                size={"longest_edge": vision["image_size"]}, patch_size=vision["patch_size"]
            ),
            build_byte_tokenizer(*controls, "[IMG_BREAK]", "[IMG_END]", image_token="[IMG]"),
            patch_size=vision["patch_size"],
            spatial_merge_size=merge,
            chat_template=_BEGIN + system + _TURNS,
        )
