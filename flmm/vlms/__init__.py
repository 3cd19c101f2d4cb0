"""The frozen reader: vision-language models that are read and never trained.

The only door to transformers.
"""

from flmm.vlms.base import FrozenVLM, Prefix
from flmm.vlms.qwen import FrozenQwen
from flmm.vlms.qwen_image_processor import QwenImageProcessorWrapper

__all__ = ["FrozenQwen", "FrozenVLM", "Prefix", "QwenImageProcessorWrapper"]
