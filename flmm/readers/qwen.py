"""FrozenQwen: the reader under the name its users know, for the Qwen-VL families.

Beside pictures it takes what the families' own examples are written in: messages of qwen-vl-utils.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from flmm.readers.base import FrozenVLM
from flmm.readers.families.qwen import Qwen
from flmm.registry import MODELS


@MODELS.register_module()
class FrozenQwen(FrozenVLM):
    """Qwen2-VL, Qwen2.5-VL or Qwen3-VL (dense or mixture of experts); see :class:`FrozenVLM`.

    Args:
        name_or_path, dtype, attn_implementation, token_merge, prompt, processor: as there.
        min_pixels: least H'*W' of the input; ``None``: the processor's.
        max_pixels: greatest H'*W' of the input; ``None``: the processor's.
        device_map, random_init, seed: as there.
    """

    model_types = Qwen.model_types

    def __init__(
        self,
        name_or_path: str | Path | PreTrainedModel,
        dtype: str | torch.dtype = "bfloat16",
        attn_implementation: str = "sdpa",
        token_merge: str = "mean",
        prompt: str | None = None,
        processor: Any = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        device_map: Any = None,
        random_init: bool = False,
        seed: int = 0,
    ) -> None:
        limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        super().__init__(
            *(name_or_path, dtype, attn_implementation, token_merge, prompt, processor, limits),
            *(device_map, random_init, seed),
        )
