"""Models without anybody's files: published sizes, or small ones, around a tokenizer of our own.

For every family the real model class with random weights and the real processor class: what a dry
run, a benchmark, the table of families and the tests read. The file of a family is imported when
it is first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from flmm.readers.families import find_kind
from flmm.readers.stand_ins.base import StandIn, build_byte_tokenizer

# As ``FAMILIES``, of the same kinds -> "module:Class" below this package.
STAND_INS: dict[str, str] = {
    "qwen_vl": "qwen_vl:QwenVLStandIn",
    "qwen2_vl": "qwen:QwenStandIn",
    "qwen2_5_vl": "qwen:QwenStandIn",
    "qwen3_vl": "qwen:QwenStandIn",
    "qwen3_vl_moe": "qwen:QwenStandIn",
    "qwen3_5": "qwen3_5:Qwen3_5StandIn",
    "qwen3_5_moe": "qwen3_5:Qwen3_5StandIn",
    "llava": "llava:LlavaStandIn",
    "llava_next": "llava:LlavaNextStandIn",
    "llava_onevision": "llava:LlavaOnevisionStandIn",
    "deepseek_vl": "deepseek:DeepseekVLStandIn",
    "deepseek_vl_hybrid": "deepseek:DeepseekVLStandIn",
    "internvl": "internvl:InternVLStandIn",
    "aya_vision": "aya_vision:AyaVisionStandIn",
    "idefics3": "idefics3:Idefics3StandIn",
    "smolvlm": "idefics3:Idefics3StandIn",
    "llava+pixtral": "pixtral:PixtralStandIn",
    "mistral3": "pixtral:PixtralStandIn",
    "glm4v": "glm4v:Glm4vStandIn",
    "glm4v_moe": "glm4v:Glm4vStandIn",
    "glm46v": "glm4v:Glm4vStandIn",
    "fuyu": "fuyu:FuyuStandIn",
    "cogvlm": "cogvlm:CogVLMStandIn",
    "gemma3": "gemma:Gemma3StandIn",
    "gemma4": "gemma:Gemma4StandIn",
    "paligemma": "gemma:PaliGemmaStandIn",
}


def find_stand_in(values: Mapping[str, Any]) -> StandIn:
    """What makes a family's models without its files.

    Args:
        values: of a config, see ``StandIn``.

    Raises:
        ValueError: nobody has said how.
    """
    kind = find_kind(values["model_type"], values.get("vision_config", {}).get("model_type"))
    if kind not in STAND_INS:
        raise ValueError(
            f"no stand-in for {kind!r}: give one of {', '.join(STAND_INS)}, or the folder of "
            "a model"
        )
    module, _, name = STAND_INS[kind].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)()


__all__ = ["STAND_INS", "StandIn", "build_byte_tokenizer", "find_stand_in"]
