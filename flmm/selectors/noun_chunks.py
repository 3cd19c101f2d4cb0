"""Noun chunks of the answer, as spaCy finds them (an optional extra)."""

from __future__ import annotations

import functools
from typing import Any

from flmm.records import Span
from flmm.selectors.base import Answer, drop_unpointable

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
        """See ``PhraseSelector``.

        Raises:
            ValueError: the pipeline parses nothing, or its language has no noun chunks.
        """
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
