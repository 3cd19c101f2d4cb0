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
            "this model has no keyword selector: train one with "
            "model.keyword_selector=dict(type='KeywordSelector') in its config "
            "(docs/conversation.md), or choose the selector 'reader'"
        )
    selector.check_trained()
    return selector


# By name; each gets the grounder, and what a config says beside the name.
SELECTORS: dict[str, Callable[..., PhraseSelector]] = {
    "noun_chunks": lambda grounder, **kwargs: NounChunkSelector(**kwargs),
    "reader": lambda grounder, **kwargs: ReaderSelector(**kwargs),
    "keywords": _take_trained,
}


def build_selector(selector: Any, grounder: Any = None) -> PhraseSelector:
    """A selector from its name or config, or a ready one as it is.

    Args:
        selector: a key of ``SELECTORS``; a dict with such a key as ``type`` and the arguments of
            that selector (``dict(type="noun_chunks", model="en_core_web_lg")``); or an object with
            ``select(answer)``.
        grounder: the model whose trained selector ``"keywords"`` is.

    Raises:
        ValueError: there is no such name, this model has no trained selector, or an argument is
            not known.
        ImportError: spaCy or its model is not installed.
    """
    if callable(getattr(selector, "select", None)):
        return selector
    kwargs = dict(selector) if isinstance(selector, dict) else {"type": selector}
    name = kwargs.pop("type", None)
    if not isinstance(name, str) or name not in SELECTORS:
        names = ", ".join(map(repr, ["brackets", *SELECTORS]))
        raise ValueError(f"there is no phrase selector {selector!r}: choose of {names}")
    try:
        return SELECTORS[name](grounder, **kwargs)
    except TypeError as error:
        if not kwargs:
            raise
        raise ValueError(f"the phrase selector {name!r} does not take {kwargs}: {error}") from error
