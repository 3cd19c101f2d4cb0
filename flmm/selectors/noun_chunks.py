"""Noun chunks of the answer, as spaCy finds them (an optional extra)."""

from __future__ import annotations

from typing import Any

from flmm.selectors.base import Answer
from flmm.selectors.clean import drop_unpointable
from flmm.structures import Span


class NounChunkSelector:
    """Every noun chunk, articles included.

    Args:
        model: name of an installed spaCy pipeline with a parser, or a loaded pipeline.

    Raises:
        ImportError: spaCy, or the pipeline, is not installed.
    """

    def __init__(self, model: Any = "en_core_web_sm") -> None:
        self.pipeline = _load_pipeline(model) if isinstance(model, str) else model

    def select(self, answer: Answer) -> list[Span]:
        """See ``PhraseSelector``."""
        chunks = self.pipeline(answer.text).noun_chunks
        spans = [(chunk.start_char, chunk.end_char) for chunk in chunks]
        return drop_unpointable(answer.text, spans)


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


__all__ = ["NounChunkSelector"]
