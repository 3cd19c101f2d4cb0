"""LLaVA-1.5 around the embedded tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import CLIPImageProcessor, LlavaProcessor

from flmm.readers.loading import load_processor
from flmm.readers.stand_ins.base import StandIn


class LlavaStandIn(StandIn):
    """With the published processor, which crops the centre."""

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Squares of the vision tower's size."""
        vision = values["vision_config"]
        tiny, side = load_processor("tiny"), vision["image_size"]
        pictures = CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
        template = tiny.chat_template.replace("<|vision_start|>", "").replace("<|vision_end|>", "")
        return LlavaProcessor(
            pictures,
            tiny.tokenizer,
            patch_size=vision["patch_size"],
            vision_feature_select_strategy=values["vision_feature_select_strategy"],
            chat_template=template,
            image_token="<|image_pad|>",
            num_additional_image_tokens=1,  # the vision tower's class token
        )
