"""Visual chain of thought: name the object, point at it, look again, answer."""

from flmm.lazy_exports import export_lazily
from flmm.visual_cot.settings import VERSIONS, VisualCotSettings

_HOMES = {
    "VisualCot": "flmm.visual_cot.chain",
    "VisualCotAnswer": "flmm.visual_cot.chain",
    "VisualCotOptions": "flmm.visual_cot.runs",
    "run_visual_cot": "flmm.visual_cot.runs",
}
__all__ = ["VERSIONS", "VisualCotSettings", *_HOMES]
__getattr__ = export_lazily(__name__, _HOMES)
