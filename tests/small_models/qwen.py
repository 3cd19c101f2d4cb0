"""Qwen-VL since the second generation: the published configs, shrunk, and the real processors.

Token ids, vocabulary, patch sizes and position encoding stay.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor, GenerationConfig, PreTrainedModel

from flmm.readers.stand_ins.base import SMALL_TEXT
from tests.small_models.base import SmallFamily, StandInFamily

FAMILY_FOLDERS = {
    "qwen2_vl": "Qwen2_VL",
    "qwen2_5_vl": "Qwen2_5_VL",
    "qwen3_vl": "Qwen3_VL",
    "qwen3_vl_moe": "Qwen3_VL",
}
# The published length of the context stays, which is what test_context looks at.
TEXT = {name: value for name, value in SMALL_TEXT.items() if name != "max_position_embeddings"}
_MIXTURE = {
    "model_type": "qwen3_vl_moe_text",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
}
_VISION = {"depth": 3, "num_heads": 2, "initializer_range": 0.15}


class SmallQwen(SmallFamily):
    """One of ``FAMILY_FOLDERS``."""

    def __init__(self, name: str) -> None:
        self.name, self.files = name, Path("qwen", FAMILY_FOLDERS[name])

    def load_processor(self, data_dir: Path) -> Any:
        """As published."""
        return AutoProcessor.from_pretrained(data_dir / self.files)

    def build_config(self, data_dir: Path, processor: Any, changes: dict[str, Any]) -> Any:
        """The published one, shrunk."""
        values = json.loads((data_dir / self.files / "config.json").read_text())
        values.pop("torch_dtype", None)
        is_flat = self.name.startswith("qwen2")
        text = values if is_flat else values["text_config"]
        text.update(TEXT | {"dtype": "float32"} | changes)
        if is_flat:
            text.pop("head_dim")  # these families derive it
        text["rope_scaling"] |= {"mrope_section": [2, 3, 3]}
        hidden_size = changes.get("hidden_size", TEXT["hidden_size"])
        values["vision_config"].update(_VISION | self._shrink_vision(hidden_size))
        if self.name == "qwen3_vl_moe":
            architectures = ["Qwen3VLMoeForConditionalGeneration"]
            values |= {"model_type": self.name, "architectures": architectures}
            values["text_config"] |= _MIXTURE
            values["vision_config"]["model_type"] = "qwen3_vl_moe_vision"
        return AutoConfig.for_model(**values)

    def _shrink_vision(self, hidden_size: int) -> dict[str, Any]:
        if self.name == "qwen2_vl":
            return {"embed_dim": 32, "hidden_size": hidden_size, "mlp_ratio": 2}
        small = {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": hidden_size}
        if self.name == "qwen2_5_vl":
            return small | {"fullatt_block_indexes": [1]}
        return small | {"deepstack_visual_indexes": [0, 1]}

    def finish(self, data_dir: Path, model: PreTrainedModel) -> None:
        """The published generation config."""
        model.generation_config = GenerationConfig.from_pretrained(data_dir / self.files)


class SmallQwen3_5(StandInFamily):
    """Its linear attention forgets slowly: what a state should not hold is then heard.

    As transformers draws them its decays are up to e^-20 a token: it forgets at once, and rounds to
    5e-5 where chunks begin elsewhere, for it sums the exponents of 64 tokens.
    """

    def build_model(self, config: Any) -> PreTrainedModel:
        """Always the same random weights."""
        model = super().build_model(config)
        for name, weight in model.named_parameters():
            if name.endswith("A_log"):
                weight.data -= 4
        return model


FAMILIES = [
    *map(SmallQwen, FAMILY_FOLDERS),
    SmallQwen3_5("qwen3_5", "Qwen3.5-9B"),
    SmallQwen3_5("qwen3_5_moe", "Qwen3.5-35B-A3B"),
]
