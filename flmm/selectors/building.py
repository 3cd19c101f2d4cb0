"""Selectors by name or config; noun chunks, as spaCy finds them (an optional extra), among them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flmm.records import Span
from flmm.selectors.base import Answer, PhraseSelector, drop_unpointable
from flmm.selectors.reader import ReaderSelector

DEFAULT_MODEL = "en_core_web_sm"


class NounChunkSelector:
    """Every noun chunk, articles included.

    Args:
        model: name of an installed spaCy pipeline with a parser, or a loaded pipeline.

    Raises:
        ImportError: spaCy, or the pipeline, is not installed.
    """

    def __init__(self, model: Any = DEFAULT_MODEL) -> None:
        self.pipeline = _load_pipeline(model) if isinstance(model, str) else model

    def select(self, answer: Answer) -> list[Span]:
        """See ``PhraseSelector``; ValueError: no parser, or a language without noun chunks."""
        parsed, meta = self.pipeline(answer.text), self.pipeline.meta
        name = f"{meta['lang']}_{meta['name']}"
        if not parsed.has_annotation("DEP"):
            raise ValueError(
                f"the spaCy pipeline {name} has no parser, so it finds no noun chunks: give one "
                f"with a parser, such as {DEFAULT_MODEL}"
            )
        try:
            spans = [(chunk.start_char, chunk.end_char) for chunk in parsed.noun_chunks]
        except NotImplementedError as error:
            raise ValueError(
                f"spaCy knows no noun chunks in the language of the pipeline {name}: choose the "
                "selector 'reader'"
            ) from error
        return drop_unpointable(answer.text, spans)


@functools.lru_cache(maxsize=4)  # a selector is built for every turn
def _load_pipeline(name: str) -> Any:
    try:
        import spacy
    except ImportError as error:
        raise ImportError(
            "the selector 'noun_chunks' needs spaCy: pip install 'flmm[noun-chunks]' and "
            f"python -m spacy download {name}, or choose the selector 'reader'"
        ) from error
    try:
        return spacy.load(name)
    except OSError as error:
        raise ImportError(
            f"spaCy's model {name} is not installed: python -m spacy download {name}, or choose "
            "the selector 'reader'"
        ) from error


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
        ValueError: no such name or argument, or this model has no trained selector.
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
