"""Visual chain of thought: name the object, point at it, look again, answer."""

from flmm.apps.visual_cot.settings import VERSIONS, VisualCotSettings
from flmm.lazy_exports import export_lazily

_HOMES = {
    "VisualCot": "flmm.apps.visual_cot.chain",
    "VisualCotAnswer": "flmm.apps.visual_cot.chain",
    "VisualCotOptions": "flmm.apps.visual_cot.runs",
    "run_visual_cot": "flmm.apps.visual_cot.runs",
}
__all__ = ["VERSIONS", "VisualCotSettings", *_HOMES]
__getattr__ = export_lazily(__name__, _HOMES)
