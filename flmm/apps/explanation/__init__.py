"""Where a word looks, which words look here, and which heads point best."""

from flmm.apps.explanation.explanation import Explanation, explain
from flmm.apps.explanation.head_ranking import (
    HeadRanking,
    RankedHead,
    load_head_ranking,
    rank_heads,
)
from flmm.apps.explanation.reading import RankedToken
from flmm.apps.explanation.tokens import ExplainedToken

__all__ = [
    "ExplainedToken",
    "Explanation",
    "HeadRanking",
    "RankedHead",
    "RankedToken",
    "explain",
    "load_head_ranking",
    "rank_heads",
]
