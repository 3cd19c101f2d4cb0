"""The frozen reader: vision-language models that are read and never trained.

The only door to transformers.
"""

from flmm.readers.base import FrozenVLM, Prefix
from flmm.readers.qwen import FrozenQwen
from flmm.readers.qwen_image_processor import QwenImageProcessorWrapper

__all__ = ["FrozenQwen", "FrozenVLM", "Prefix", "QwenImageProcessorWrapper"]
