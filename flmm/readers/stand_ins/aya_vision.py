"""Aya Vision around bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AyaVisionProcessor, GotOcr2ImageProcessor

from flmm.readers.stand_ins.base import SMALL_TILE_PX, SMALL_VISION, StandIn, build_byte_tokenizer

_CONTROLS = ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>")
_ANSWERS = ("<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>")
_PICTURES = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE", "TILE_GLOBAL")
# As published.
_TEMPLATE = (
    "<s>{% for message in messages %}<|START_OF_TURN_TOKEN|>"
    "{{ '<|USER_TOKEN|>' if message['role'] == 'user' else '<|CHATBOT_TOKEN|><|START_RESPONSE|>' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}"
    "{{ '' if message['role'] == 'user' else '<|END_RESPONSE|>' }}<|END_OF_TURN_TOKEN|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{% endif %}"
)
_MOST_TILES, _FEW_TILES = 12, 6


class AyaVisionStandIn(StandIn):
    """Aya Vision."""

    small_vision = SMALL_VISION | {"image_size": SMALL_TILE_PX}

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Tiles of the vision tower's size; small models see fewer."""
        vision = values["vision_config"]
        side = vision["image_size"]
        most = _FEW_TILES if side <= SMALL_TILE_PX else _MOST_TILES
        return AyaVisionProcessor(
            GotOcr2ImageProcessor(size={"height": side, "width": side}, max_patches=most),
            build_byte_tokenizer(*_CONTROLS, *_ANSWERS, *_PICTURES),
            patch_size=vision["patch_size"],
            img_size=side,
            downsample_factor=values["downsample_factor"],
            chat_template=_TEMPLATE,
        )
