"""CogVLM2 around a byte-level tokenizer, CogVLM with the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flmm.readers.own_models.cogvlm import build_processor
from tests.small_models.base import StandInFamily


class SmallCogVLM(StandInFamily):
    """The first generation, whose tokenizer is Llama 2's."""

    def load_processor(self, data_dir: Path) -> Any:
        """As for a published folder."""
        text, vision = self.values["text_config"], self.values["vision_config"]
        tower = {**vision, "num_heads": vision["num_attention_heads"]}
        values = {**text, "vision_config": tower, "template_version": "chat"}
        return build_processor(values, lambda name: data_dir / "processors/llava" / name)


FAMILIES = [SmallCogVLM("cogvlm", "CogVLM-17B"), StandInFamily("cogvlm2", "CogVLM2-19B")]
