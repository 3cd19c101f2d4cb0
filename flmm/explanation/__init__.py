"""Where a word looks, which words look here, and which heads point best."""

from flmm.explanation.explanation import Explanation, explain
from flmm.explanation.head_ranking import HeadRanking, RankedHead, load_head_ranking, rank_heads
from flmm.explanation.regions import RankedToken
from flmm.explanation.tokens import ExplainedToken

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
