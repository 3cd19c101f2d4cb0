"""flmm: a frozen vision-language model points at pixels.

``GroundingInferencer`` is the human door; it is imported when first asked for, so that a room of
flmm can be used without loading the others.
"""

from typing import Any

__version__ = "0.3.0"
__all__ = ["Continuation", "FrozenQwen", "GroundingInferencer", "QwenImageProcessorWrapper"]

_HOMES = {
    "Continuation": "flmm.structures",
    "FrozenQwen": "flmm.vlms",
    "GroundingInferencer": "flmm.inferencer",
    "QwenImageProcessorWrapper": "flmm.vlms",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flmm' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
