"""LLaVA to LLaVA-OneVision, InternVL, Idefics3: real tokenizers and templates, small tiles.

DeepSeek-VL and SmolVLM stand around bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    CLIPImageProcessor,
    GotOcr2ImageProcessor,
    Idefics3ImageProcessor,
    LlavaImageProcessor,
    LlavaNextImageProcessor,
    LlavaOnevisionImageProcessor,
)

from flmm.readers.stand_ins.base import SMALL_TILE_PX as TILE_PX
from flmm.readers.stand_ins.base import SMALL_VISION as VISION
from tests.small_models.base import (
    FolderFamily,
    StandInFamily,
    build_config,
    build_text_values,
)

_SQUARE = {"height": TILE_PX, "width": TILE_PX}
_SIZES = {"size": {"shortest_edge": TILE_PX}, "crop_size": _SQUARE}
_PINPOINTS = [
    [TILE_PX * height, TILE_PX * width]
    for height, width in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
]
_CUT_PX = TILE_PX + 4
_MANY_PINPOINTS = [
    [_CUT_PX * row, _CUT_PX * column] for row in range(1, 4) for column in range(1, 5)
]
_CLIP = {
    "model_type": "clip_vision_model",
    **VISION,
    "patch_size": 14,
    "image_size": TILE_PX,
    "projection_dim": 32,
    "initializer_factor": 3.0,
}


class SmallLlava(FolderFamily):
    """LLaVA-1.5, which pads to a square or crops the centre."""

    folder = "llava"

    def __init__(self, name: str) -> None:
        self.name = name

    def shrink(self, processor: Any) -> None:
        """As LLaVA's own code pads, or as the published processor crops."""
        if self.name == "llava_padded":
            processor.image_processor = LlavaImageProcessor(**_SIZES, do_pad=True)
        else:
            processor.image_processor = CLIPImageProcessor(**_SIZES)

    def build_config(self, data_dir: Path, processor: Any, changes: dict[str, Any]) -> Any:
        """Llama behind CLIP."""
        text = build_text_values("llama", processor.tokenizer, changes)
        return build_config("llava", processor, text, _CLIP)


class SmallLlavaNext(FolderFamily):
    """LLaVA-1.6."""

    name = folder = "llava_next"

    def shrink(self, processor: Any) -> None:
        """Up to four tiles."""
        processor.image_processor = LlavaNextImageProcessor(
            **_SIZES, image_grid_pinpoints=_PINPOINTS
        )

    def build_config(self, data_dir: Path, processor: Any, changes: dict[str, Any]) -> Any:
        """Mistral behind CLIP."""
        text = build_text_values("mistral", processor.tokenizer, changes)
        return build_config("llava_next", processor, text, _CLIP, image_grid_pinpoints=_PINPOINTS)


class SmallLlavaOnevision(FolderFamily):
    """LLaVA-OneVision: 4 of 60 px of each tile unseen, more than 9 tiles shrunk."""

    name = folder = "llava_onevision"
    smear = 1.0  # a shrunk grid's cell mixes two of each side

    def shrink(self, processor: Any) -> None:
        """Up to twelve tiles."""
        square = {"height": _CUT_PX, "width": _CUT_PX}
        processor.image_processor = LlavaOnevisionImageProcessor(
            size=square, image_grid_pinpoints=_MANY_PINPOINTS
        )
        processor.num_image_tokens = 16

    def build_config(self, data_dir: Path, processor: Any, changes: dict[str, Any]) -> Any:
        """Qwen2 behind SigLIP."""
        text = build_text_values("qwen2", processor.tokenizer, changes)
        vision = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
        vision |= {"patch_size": 14, "image_size": _CUT_PX}
        more = {"image_grid_pinpoints": _MANY_PINPOINTS, "vision_aspect_ratio": "anyres_max_9"}
        more |= {"vision_feature_layer": -1, "video_token_id": processor.video_token_id}
        return build_config("llava_onevision", processor, text, vision, **more)


class SmallIdefics3(FolderFamily):
    """Idefics3."""

    name = folder = "idefics3"

    def shrink(self, processor: Any) -> None:
        """150: no whole tiles, where transformers' own count of tiles is at times wrong."""
        sizes = {"size": {"longest_edge": 150}, "max_image_size": {"longest_edge": TILE_PX}}
        processor.image_processor = Idefics3ImageProcessor(**sizes)
        processor.image_seq_len = 4

    def build_config(self, data_dir: Path, processor: Any, changes: dict[str, Any]) -> Any:
        """Llama behind SigLIP."""
        text = build_text_values("llama", processor.tokenizer, changes)
        vision = {**VISION, "model_type": "idefics3_vision"}
        vision |= {"patch_size": 14, "image_size": TILE_PX}
        return build_config("idefics3", processor, text, vision)


class SmallInternVL(FolderFamily):
    """InternVL."""

    name = folder = "internvl"

    def shrink(self, processor: Any) -> None:
        """Up to six tiles."""
        processor.image_processor = GotOcr2ImageProcessor(size=_SQUARE, max_patches=6)
        processor.image_seq_length = 4

    def build_config(self, data_dir: Path, processor: Any, changes: dict[str, Any]) -> Any:
        """Qwen2 behind InternViT."""
        text = build_text_values("qwen2", processor.tokenizer, changes)
        vision = {**VISION, "model_type": "internvl_vision"}
        vision |= {"patch_size": [14, 14], "image_size": [TILE_PX, TILE_PX]}
        return build_config("internvl", processor, text, vision)


FAMILIES = [
    SmallLlava("llava_padded"),
    SmallLlava("llava_cropped"),
    SmallLlavaNext(),
    SmallLlavaOnevision(),
    StandInFamily("deepseek_vl", "DeepSeek-VL-1.3B"),
    StandInFamily("deepseek_vl_hybrid", "DeepSeek-VL-7B", smear=1.6),
    SmallInternVL(),
    SmallIdefics3(),
    StandInFamily("smolvlm", "SmolVLM2-2.2B"),
    StandInFamily("aya_vision", "Aya-Vision-8B"),
]
