"""One small reader for each family, and the same weights behind transformers' eager attention."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flmm.readers import FrozenQwen
from tests.small_models import FAMILY_FOLDERS, build_small_model, load_processor


@dataclass
class EagerReference:
    """Transformers' own eager attentions of one whole pass, fed by the unified processor."""

    model: Any = field(repr=False)
    processor: Any = field(repr=False)

    @torch.no_grad()
    def read(self, image: Any, prompt: str, answer: str) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids ``[T]``, attentions ``[L*A, T, T]`` and hidden states ``[L, T, D]``."""
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = self.processor(text=[text + answer], images=[image], return_tensors="pt")
        output = self.model(
            **inputs, output_attentions=True, output_hidden_states=True, use_cache=False
        )
        layers = len(output.attentions)
        hidden_states = torch.cat(output.hidden_states[-layers:])
        return inputs["input_ids"][0], torch.cat(output.attentions, 1)[0], hidden_states


@pytest.fixture(scope="session", params=sorted(FAMILY_FOLDERS))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def vlm(data_dir: Path, family: str) -> FrozenQwen:
    processor = load_processor(data_dir, family)
    return FrozenQwen.from_model(build_small_model(data_dir, family), processor)


@pytest.fixture(scope="session")
def eager(data_dir: Path, family: str) -> EagerReference:
    model = build_small_model(data_dir, family)
    model.set_attn_implementation("eager")
    return EagerReference(model, load_processor(data_dir, family))


@pytest.fixture(scope="session")
def noise() -> Any:
    """Factory of pictures of a given (h, w), always the same ones."""

    def build(height: int, width: int) -> np.ndarray:
        return np.random.default_rng(height * 1000 + width).integers(
            0, 255, (height, width, 3), dtype=np.uint8
        )

    return build
