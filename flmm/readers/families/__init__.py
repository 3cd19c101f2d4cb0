"""What families of vision-language models differ in: one small file each.

``find_family`` gives the class for a ``model_type``; the file of a family is imported when it is
first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from flmm.readers.families.base import Family, Seen

# model_type -> "module:Class" below this package.
FAMILIES: dict[str, str] = {
    "qwen2_vl": "qwen:Qwen",
    "qwen2_5_vl": "qwen:Qwen",
    "qwen3_vl": "qwen:Qwen",
    "qwen3_vl_moe": "qwen:Qwen",
    "llava": "llava:Llava",
    "llava_next": "llava_next:LlavaNext",
    "llava_onevision": "llava_next:LlavaOnevision",
    "deepseek_vl": "deepseek:DeepseekVL",
    "deepseek_vl_hybrid": "deepseek:DeepseekVL",
    "internvl": "internvl:InternVL",
    "idefics3": "idefics3:Idefics3",
    "smolvlm": "idefics3:Idefics3",
}


def find_family(config: Any, model_types: Sequence[str] | None = None) -> type[Family]:
    """The family of a model.

    Args:
        config: of the model; its ``model_type`` decides.
        model_types: that will do; ``None``: all.

    Raises:
        ValueError: flmm reads no such model.
    """
    supported = FAMILIES if model_types is None else model_types
    if config.model_type not in supported:
        raise ValueError(
            f"model type {config.model_type!r} is not supported: give one of {', '.join(supported)}"
        )
    module, _, name = FAMILIES[config.model_type].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


__all__ = ["FAMILIES", "Family", "Seen", "find_family"]
