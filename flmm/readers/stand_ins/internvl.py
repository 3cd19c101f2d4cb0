"""InternVL around bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

from flmm.readers.stand_ins.base import SMALL_TILE_PX, SMALL_VISION, StandIn, build_byte_tokenizer

# As in transformers' convert_internvl_weights_to_hf.py.
_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{{ '<IMG_CONTEXT>\n' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_MOST_TILES, _FEW_TILES = 12, 6


class InternVLStandIn(StandIn):
    """InternVL 3."""

    small_vision = SMALL_VISION | {"image_size": [SMALL_TILE_PX, SMALL_TILE_PX]}

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Tiles of the vision tower's size; small models see fewer."""
        vision, ratio = values["vision_config"], values["downsample_ratio"]
        height, width = vision["image_size"]
        tokens = (height // vision["patch_size"][0]) * (width // vision["patch_size"][1])
        most = _FEW_TILES if height <= SMALL_TILE_PX else _MOST_TILES
        tokenizer = build_byte_tokenizer(
            *("<|im_start|>", "<|im_end|>"),
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        )
        return InternVLProcessor(
            GotOcr2ImageProcessor(size={"height": height, "width": width}, max_patches=most),
            tokenizer,
            InternVLVideoProcessor(),
            image_seq_length=int(tokens * ratio**2),
            chat_template=_TEMPLATE,
        )
