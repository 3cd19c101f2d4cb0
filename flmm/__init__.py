"""flmm: a frozen vision-language model points at pixels.

``GroundingInferencer`` is the human door; it is imported when first asked for, so that a room of
flmm can be used without loading the others.
"""

from flmm.lazy_exports import export_lazily
from flmm.moved import keep_old_paths

__version__ = "0.7.0"
__all__ = [
    "Continuation",
    "FrozenQwen",
    "GroundingInferencer",
    "QwenImageProcessorWrapper",
    "load_reader",
]

_HOMES = {
    "Continuation": "flmm.records",
    "FrozenQwen": "flmm.readers",
    "GroundingInferencer": "flmm.inferencer",
    "QwenImageProcessorWrapper": "flmm.readers",
    "load_reader": "flmm.readers",
}


__getattr__ = export_lazily(__name__, _HOMES)
keep_old_paths()
