"""Selectors by name or config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flmm.selectors.base import PhraseSelector
from flmm.selectors.noun_chunks import NounChunkSelector
from flmm.selectors.reader import ReaderSelector


def _take_trained(grounder: Any) -> PhraseSelector:
    selector = getattr(grounder, "keyword_selector", None)
    if selector is None:
        raise ValueError(
            "this model has no trained keyword selector: train one with "
            "keyword_selector=dict(type='KeywordSelector') in its config, or select phrases with "
            f"{', '.join(repr(name) for name in SELECTORS if name != 'keywords')}"
        )
    return selector


# By name; each gets the grounder.
SELECTORS: dict[str, Callable[[Any], PhraseSelector]] = {
    "noun_chunks": lambda grounder: NounChunkSelector(),
    "reader": lambda grounder: ReaderSelector(),
    "keywords": _take_trained,
}


def build_selector(selector: Any, grounder: Any = None) -> PhraseSelector:
    """A selector from its name, or a ready one as it is.

    Args:
        selector: a key of ``SELECTORS``, or an object with ``select(answer)``.
        grounder: the model whose trained selector ``"keywords"`` is.

    Raises:
        ValueError: there is no such name, or this model has no trained selector.
        ImportError: spaCy or its model is not installed.
    """
    if callable(getattr(selector, "select", None)):
        return selector
    if not isinstance(selector, str) or selector not in SELECTORS:
        names = ", ".join(map(repr, ["brackets", *SELECTORS]))
        raise ValueError(f"there is no phrase selector {selector!r}: choose of {names}")
    return SELECTORS[selector](grounder)


__all__ = ["SELECTORS", "build_selector"]
