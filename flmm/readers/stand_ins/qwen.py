"""Qwen-VL around the embedded tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flmm.readers.loading import load_processor
from flmm.readers.stand_ins.base import StandIn

LARGEST_PIXELS = 16384 * 32 * 32
_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


class QwenStandIn(StandIn):
    """Keeps the size of any picture up to 16 megapixels."""

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """The embedded model's, with the patches of these values."""
        processor = load_processor("tiny")
        processor.image_processor.patch_size = values["vision_config"]["patch_size"]
        processor.image_processor.size = {
            "shortest_edge": 32 * 32,
            "longest_edge": LARGEST_PIXELS,
        }
        return processor

    def find_token_ids(self, processor: Any) -> dict[str, int]:
        """Also those of the vision tokens."""
        ids = processor.tokenizer.convert_tokens_to_ids(list(_TOKENS.values()))
        return dict(zip(_TOKENS, ids))
