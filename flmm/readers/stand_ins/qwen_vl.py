"""Qwen-VL of the first generation around bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flmm.readers.own_models.qwen_vl_processor import (
    CHAT_TEMPLATE,
    END_OF_TURN,
    IMAGE_TOKEN,
)
from flmm.readers.own_models.vision_language import SquareProcessor, build_image_processor
from flmm.readers.stand_ins.base import SMALL_TILE_PX, StandIn, build_byte_tokenizer


class QwenVLStandIn(StandIn):
    """Qwen-VL-Chat, with its own template; small: 4 x 4 queries."""

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Also fewer queries."""
        small = super().shrink(values)
        sizes = {"image_size": SMALL_TILE_PX, "num_queries": 16}
        small["vision_config"] |= sizes | {"output_dim": small["text_config"]["hidden_size"]}
        return small

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Squares of the vision tower's size."""
        control = ("<|im_start|>", END_OF_TURN, "<img>", "</img>", IMAGE_TOKEN)
        tokenizer = build_byte_tokenizer(*control)
        tokenizer.eos_token = END_OF_TURN
        vision = values["vision_config"]
        return SquareProcessor(
            build_image_processor(vision["image_size"]),
            tokenizer,
            chat_template=CHAT_TEMPLATE,
            image_token=IMAGE_TOKEN,
            image_seq_length=vision["num_queries"],
        )
