"""What families of vision-language models differ in: one small file each.

``find_family`` gives the class for a ``model_type``; the file of a family is imported when it is
first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

from flmm.readers.families.base import Family, Seen

# model_type -> "module:Class" below this package.
FAMILIES: dict[str, str] = {
    "llava": "llava:Llava",
    "llava_next": "llava_next:LlavaNext",
    "internvl": "internvl:InternVL",
}


def find_family(config: Any) -> type[Family]:
    """The family of a model.

    Args:
        config: of the model; its ``model_type`` decides.

    Raises:
        ValueError: flmm reads no such model.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"model type {config.model_type!r} is not supported: give one of {', '.join(FAMILIES)}"
        )
    module, _, name = FAMILIES[config.model_type].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


__all__ = ["FAMILIES", "Family", "Seen", "find_family"]
