"""The frozen reader: vision-language models that are read and never trained.

The only door to transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flmm.readers.base import FrozenVLM, Prefix
from flmm.readers.image_processor import ImageProcessorWrapper
from flmm.readers.loading import load_config
from flmm.readers.qwen import FrozenQwen
from flmm.readers.qwen_image_processor import QwenImageProcessorWrapper


def load_reader(name_or_path: str | Path, dtype: Any = "bfloat16", **kwargs: Any) -> FrozenVLM:
    """A frozen reader of any family that flmm knows; see :class:`FrozenVLM`, :class:`FrozenQwen`.

    Raises:
        OSError: there is no model at ``name_or_path``.
        ValueError: flmm reads no such model, or it and its processor do not belong together.
    """
    is_qwen = load_config(name_or_path).model_type in FrozenQwen.model_types
    kind = FrozenQwen if is_qwen else FrozenVLM
    return kind(name_or_path, dtype=dtype, **kwargs)


__all__ = [
    "FrozenQwen",
    "FrozenVLM",
    "ImageProcessorWrapper",
    "Prefix",
    "QwenImageProcessorWrapper",
    "load_reader",
]
