"""Qwen-VL around the embedded tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from flmm.readers.loading import load_processor
from flmm.readers.stand_ins.base import SMALL_TEXT, StandIn

LARGEST_PIXELS = 16384 * 32 * 32
_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
# By what a config calls them; the widths of towers that hand over the language model's.
_SMALL_DEPTH = {"depth": 3, "num_heads": 2, "initializer_range": 0.15}
_SMALL_TOWERS = {
    "embed_dim": {"embed_dim": 32, "hidden_size": SMALL_TEXT["hidden_size"], "mlp_ratio": 2},
    "out_hidden_size": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": SMALL_TEXT["hidden_size"],
    },
    "fullatt_block_indexes": {"fullatt_block_indexes": [1]},
    "deepstack_visual_indexes": {"deepstack_visual_indexes": [0, 1]},
}
_SMALL_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


class QwenStandIn(StandIn):
    """Keeps the size of any picture up to 16 megapixels."""

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Also the sections of the rotary embedding and, of a mixture, the experts."""
        small = copy.deepcopy(dict(values))
        text, vision = small["text_config"], small["vision_config"]
        text |= self.small_text
        text |= {name: value for name, value in _SMALL_EXPERTS.items() if name in text}
        text["rope_parameters"] |= {"mrope_section": [2, 3, 3]}
        vision |= _SMALL_DEPTH
        for name, sizes in _SMALL_TOWERS.items():
            if name in vision:
                vision |= sizes
        return small

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
