"""What families of vision-language models differ in: one small file each.

``find_family`` gives the class for a ``model_type``; the file of a family is imported when it is
first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from flmm.readers.families.base import Family, Seen

# model_type, or "model_type+tower" where the vision tower decides -> "module:Class" of this
# package.
FAMILIES: dict[str, str] = {
    "qwen_vl": "qwen_vl:QwenVL",
    "cogvlm": "cogvlm:CogVLM",
    "qwen2_vl": "qwen:Qwen",
    "qwen2_5_vl": "qwen:Qwen",
    "qwen3_vl": "qwen:Qwen",
    "qwen3_vl_moe": "qwen:Qwen",
    "qwen3_5": "qwen:Qwen3_5",
    "qwen3_5_moe": "qwen:Qwen3_5",
    "llava": "llava:Llava",
    "llava+pixtral": "pixtral:Pixtral",
    "mistral3": "pixtral:Pixtral",
    "llava_next": "llava_next:LlavaNext",
    "llava_onevision": "llava_next:LlavaOnevision",
    "deepseek_vl": "deepseek:DeepseekVL",
    "deepseek_vl_hybrid": "deepseek:DeepseekVL",
    "internvl": "internvl:InternVL",
    "aya_vision": "aya_vision:AyaVision",
    "idefics3": "idefics3:Idefics3",
    "smolvlm": "idefics3:Idefics3",
    "glm4v": "glm4v:Glm4v",
    "glm4v_moe": "glm4v:Glm4v",
    "glm46v": "glm4v:Glm4v",
    "fuyu": "fuyu:Fuyu",
    "gemma3": "gemma:Gemma3",
    "gemma4": "gemma:Gemma4",
    "paligemma": "paligemma:PaliGemma",
}


def find_family(config: Any, model_types: Sequence[str] | None = None) -> type[Family]:
    """The family of a model.

    Args:
        config: of the model; its ``model_type`` decides.
        model_types: that will do; ``None``: all.

    Raises:
        ValueError: flmm reads no such model.
    """
    tower = getattr(getattr(config, "vision_config", None), "model_type", None)
    kind = find_kind(config.model_type, tower)
    supported = FAMILIES if model_types is None else model_types
    if kind not in supported:
        raise ValueError(
            f"model type {config.model_type!r} is not supported: give one of {', '.join(supported)}"
        )
    module, _, name = FAMILIES[kind].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def find_kind(model_type: str, tower: str | None) -> str:
    """The key of ``FAMILIES`` for a model with a vision tower of this ``model_type``."""
    both = f"{model_type}+{tower}"
    return both if both in FAMILIES else model_type


__all__ = ["FAMILIES", "Family", "Seen", "find_family", "find_kind"]
