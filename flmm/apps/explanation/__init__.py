"""Where a word looks, and which words look here."""

from flmm.apps.explanation.explanation import Explanation, explain
from flmm.apps.explanation.reading import RankedToken
from flmm.apps.explanation.tokens import ExplainedToken

__all__ = ["ExplainedToken", "Explanation", "RankedToken", "explain"]
