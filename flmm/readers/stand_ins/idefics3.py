"""Idefics3 and SmolVLM around bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import (
    Idefics3ImageProcessor,
    Idefics3Processor,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from flmm.readers.loading import spare_num2words
from flmm.readers.stand_ins.base import SMALL_TEXT, StandIn, build_byte_tokenizer

# As published with both.
_TEMPLATE = (
    "<|im_start|>{% for message in messages %}"
    "{{ message['role'] | capitalize }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}<end_of_utterance>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_TILES = 4  # along the longest side of a picture
_CONTROLS = ("<|im_start|>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
_TAGS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))


class Idefics3StandIn(StandIn):
    """Idefics3, whose tags are text, and SmolVLM, whose tags are tokens of their own."""

    small_text = SMALL_TEXT | {"max_position_embeddings": 16384}  # Llama 3's rule asks for 8193

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Tiles of 2 x 2 tokens; a part of each is unseen where it is with the published ones."""
        small, vision = super().shrink(values), values["vision_config"]
        unseen = vision["image_size"] % vision["patch_size"]
        side = 2 * values["scale_factor"] * vision["patch_size"] + unseen
        small["vision_config"]["image_size"] = side
        return small

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Tiles of the vision tower's size."""
        vision, is_smol = values["vision_config"], values["model_type"] == "smolvlm"
        side = vision["image_size"]
        sizes = {
            "size": {"longest_edge": _TILES * side},
            "max_image_size": {"longest_edge": side},
        }
        more = {
            "image_seq_len": (side // vision["patch_size"] // values["scale_factor"]) ** 2,
            "chat_template": _TEMPLATE,
        }
        tags = _TAGS if is_smol else ()
        tokenizer = build_byte_tokenizer(*_CONTROLS, *tags, image_token="<image>")
        if not is_smol:
            return Idefics3Processor(Idefics3ImageProcessor(**sizes), tokenizer, **more)
        spare_num2words()
        pictures, videos = SmolVLMImageProcessor(**sizes), SmolVLMVideoProcessor()
        return SmolVLMProcessor(pictures, tokenizer, videos, **more)


__all__ = ["Idefics3StandIn"]
