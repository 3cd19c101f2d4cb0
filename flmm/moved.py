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
    "flmm.apps.explanation.head_ranking": "flmm.head_selection",
    "flmm.atomic_files": "flmm.files",
    "flmm.box_baseline": "flmm.ways",
    "flmm.datasets": "flmm.data",
    "flmm.datasets.bad_records": "flmm.data.grounding_dataset",
    "flmm.datasets.narratives": "flmm.data.png",
    "flmm.datasets.panoptic": "flmm.data.masks",
    "flmm.datasets.protocols": "flmm.data.samples",
    "flmm.datasets.sampler": "flmm.data.grounding_dataset",
    "flmm.datasets.shape_lists": "flmm.toy.shape_captions",
    "flmm.engine": "flmm.training",
    "flmm.engine.checkpoint_files": "flmm.checkpoints.checkpoint",
    "flmm.engine.compiling": "flmm.training.acceleration",
    "flmm.engine.distributed": "flmm.distributed",
    "flmm.engine.evaluation": "flmm.evaluation.evaluating",
    "flmm.engine.evaluation_report": "flmm.evaluation.evaluation_runs",
    "flmm.engine.feature_filling": "flmm.training.feature_caching",
    "flmm.engine.optim": "flmm.training.acceleration",
    "flmm.engine.provenance": "flmm.provenance",
    "flmm.engine.published_heads": "flmm.sharing.exporting",
    "flmm.engine.schedules": "flmm.training.resume_changes",
    "flmm.engine.skipped_records": "flmm.evaluation.grounding_metrics",
    "flmm.evaluation.png_metric": "flmm.evaluation.grounding_metrics",
    "flmm.evaluation.refseg_metric": "flmm.evaluation.grounding_metrics",
    "flmm.features.budget": "flmm.features.entries",
    "flmm.features.fingerprints": "flmm.fingerprints",
    "flmm.features.phrases": "flmm.features.cache",
    "flmm.heads": "flmm.masks",
    "flmm.heads.sam": "flmm.masks.refiners.segment_anything",
    "flmm.heads.sam_weights": "flmm.masks.refiners.segment_anything",
    "flmm.heads.tiny_sam": "flmm.masks.refiners.segment_anything",
    "flmm.images.fetching": "flmm.images.addresses",
    "flmm.selectors.clean": "flmm.selectors.base",
    "flmm.selectors.keyword_training": "flmm.selectors.keywords",
    "flmm.structures": "flmm.records",
    "flmm.terminal_chat": "flmm.apps.terminal",
    "flmm.tiny_model": "flmm.toy",
    "flmm.vlms": "flmm.readers",
    "flmm.vlms.context": "flmm.readers.prompts",
    "flmm.vlms.hub": "flmm.readers.loading",
}
# Modules that kept their names: old room and new one.
for _old, _new, _names in (
    ("flmm", "flmm.apps", "comparison demo explanation visual_cot web"),
    ("flmm.datasets", "flmm.toy", "shape_captions shape_files shape_sentences shapes"),
    ("flmm.datasets", "flmm.data_checks", "check_report data_check"),
    ("flmm.engine", "flmm.checkpoints", "checkpoint chosen_weights"),
    ("flmm.engine", "flmm.evaluation", "evaluation_options evaluation_runs journal"),
    ("flmm.engine", "flmm.sharing", "exporting model_card sharing"),
):
    MOVED |= {f"{_old}.{name}": f"{_new}.{name}" for name in _names.split()}


def find_new_name(name: str) -> str | None:
    """Where the module of an old name is now; ``None``: it was not moved."""
    old = name
    while old and old not in MOVED:
        old = old.rpartition(".")[0]
    return MOVED[old] + name[len(old) :] if old else None


class _MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for old names alone, and first: in the folder of a moved room others would find
    its modules under their old names, and run them a second time.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        new = find_new_name(name)
        found = None if new is None else importlib.util.find_spec(new)
        if found is None:
            return None
        return ModuleSpec(name, self, origin=found.origin, loader_state=found, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = spec.loader_state.name
        warnings.warn(f"{spec.name} is now {new}: import that", DeprecationWarning, stacklevel=2)
        return importlib.import_module(new)

    def exec_module(self, module: ModuleType) -> None:
        """The module has run under its own name, and keeps its own spec."""
        spec = module.__spec__
        module.__spec__ = spec and spec.loader_state


def keep_old_paths() -> None:
    """Let Python find old names; calling it twice changes nothing."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MovedFinder())
