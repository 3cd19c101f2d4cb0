"""CogVLM and CogVLM2 around a byte-level tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flmm.readers.own_models.cogvlm_processor import make_processor
from flmm.readers.own_models.cogvlm_vision import CogVLMVisionConfig
from flmm.readers.stand_ins.base import SMALL_TILE_PX, StandIn, build_byte_tokenizer


class CogVLMStandIn(StandIn):
    """With the processor that a published folder would be given."""

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A grid of 4 x 4 cells."""
        small = super().shrink(values)
        vision = small["vision_config"]
        vision["image_size"] = SMALL_TILE_PX * vision["merge_size"]
        return small

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """As published but for the tokenizer."""
        token, vision = "<picture>", CogVLMVisionConfig(**values["vision_config"])
        return make_processor(
            build_byte_tokenizer(token), token, vision, values["template_version"]
        )
