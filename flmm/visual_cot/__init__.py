"""Visual chain of thought: name the object, point at it, look again, answer."""

from flmm.visual_cot.chain import VERSIONS, VisualCot, VisualCotAnswer
from flmm.visual_cot.runs import VisualCotOptions, run_visual_cot
from flmm.visual_cot.settings import VisualCotSettings

__all__ = [
    "VERSIONS",
    "VisualCot",
    "VisualCotAnswer",
    "VisualCotOptions",
    "VisualCotSettings",
    "run_visual_cot",
]
