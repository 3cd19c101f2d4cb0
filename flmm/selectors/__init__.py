"""Which words of a conversation to point at: interchangeable choosers of phrases.

In: an answer (text, tokens, what was thought). Out: character ranges. Knows no picture, no mask.
"""

from flmm.selectors.base import Answer, PhraseSelector, parse_brackets
from flmm.selectors.building import SELECTORS, NounChunkSelector, build_selector
from flmm.selectors.keywords import KeywordSelector, compute_keyword_figures, keep_hidden_states
from flmm.selectors.reader import ReaderSelector

__all__ = [
    "SELECTORS",
    "Answer",
    "KeywordSelector",
    "NounChunkSelector",
    "PhraseSelector",
    "ReaderSelector",
    "build_selector",
    "compute_keyword_figures",
    "keep_hidden_states",
    "parse_brackets",
]
