"""Qwen-VL of the first generation: the real tokenizer, a query a patch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from flmm.readers.loading import load_processor
from flmm.readers.own_models.vision_language import build_image_processor
from flmm.readers.stand_ins.base import SMALL_TILE_PX, SMALL_VISION
from tests.small_models.base import FolderFamily, build_config, build_text_values

QUERIES, PATCH_PX = 16, 14


class SmallQwenVL(FolderFamily):
    """Our own module: an eager pass of it proves the reading, an oracle the module."""

    name, folder = "qwen_vl", "qwen_vl_v1"

    def load_processor(self, data_dir: Path) -> Any:
        """From the published tokenizer."""
        processor = load_processor(data_dir / "processors" / self.folder)
        self.shrink(processor)
        return processor

    def shrink(self, processor: Any) -> None:
        """Small squares."""
        processor.image_processor = build_image_processor(SMALL_TILE_PX)
        processor.image_seq_length = QUERIES

    def build_config(self, data_dir: Path, processor: Any, changes: dict[str, Any]) -> Any:
        """Qwen2 behind the tower."""
        text = build_text_values("qwen2", processor.tokenizer, changes)
        vision = {
            **SMALL_VISION,
            "model_type": "qwen_vl_vision",
            "image_size": SMALL_TILE_PX,
            "patch_size": PATCH_PX,
            "num_queries": QUERIES,
            "output_dim": text["hidden_size"],
            "mlp_ratio": 1.5,
        }
        return build_config("qwen_vl", processor, text, vision)

    def silence(self, model: PreTrainedModel) -> None:
        """And let each query look at the patches where it stands, as a trained one does."""
        for block in model.model.visual.transformer["resblocks"]:
            block.attn.out_proj.weight.zero_()
        pool = model.model.visual.attn_pool
        same = torch.eye(pool.query.shape[1])
        pool.attn.in_proj_weight.copy_(torch.cat([30 * same, 30 * same, same]))
        pool.attn.in_proj_bias.zero_()
        pool.query.zero_()  # its position alone decides,
        pool.ln_kv.weight.fill_(0.005)  # and that of a patch


FAMILIES = [SmallQwenVL()]
