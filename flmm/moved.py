"""Import paths that users may have written before the rooms were moved go on working.

``import flmm.vlms.qwen`` gives the module ``flmm.readers.qwen``, the same object, with a
``DeprecationWarning``. Not its duty: names within a module.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Old -> new; the longest that fits counts, and what stands behind it is kept.
MOVED = {
    "flmm.structures": "flmm.records",
    "flmm.vlms": "flmm.readers",
    "flmm.heads": "flmm.masks",
    "flmm.heads.sam": "flmm.masks.refiners.segment_anything",
    "flmm.datasets": "flmm.data",
    "flmm.datasets.shapes": "flmm.toy.shapes",
    "flmm.engine": "flmm.training",
    "flmm.engine.evaluation_runs": "flmm.evaluation.evaluation_runs",
    "flmm.engine.sharing": "flmm.sharing.sharing",
    "flmm.engine.checkpoint": "flmm.checkpoints.checkpoint",
    "flmm.explanation": "flmm.apps.explanation",
    "flmm.visual_cot": "flmm.apps.visual_cot",
    "flmm.web": "flmm.apps.web",
}


def find_new_name(name: str) -> str | None:
    """Where the module of an old name is now; ``None``: it was not moved."""
    old = name
    while old and old not in MOVED:
        old = old.rpartition(".")[0]
    return MOVED[old] + name[len(old) :] if old else None


class _MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for old names alone, after everybody else has failed to find them."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        new = find_new_name(name)
        if new is None or importlib.util.find_spec(new) is None:
            return None
        return ModuleSpec(name, self, origin=new, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = str(spec.origin)
        warnings.warn(f"{spec.name} is now {new}: import that", DeprecationWarning, stacklevel=2)
        return importlib.import_module(new)

    def exec_module(self, module: ModuleType) -> None:
        """The module has run under its own name."""


def keep_old_paths() -> None:
    """Let Python find old names; calling it twice changes nothing."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedFinder())


__all__ = ["find_new_name", "keep_old_paths"]
