"""The protocols, by the names that tables print: how phrases are asked, what measures the masks.

Two figures can only be compared under one protocol, so every row of every table names its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from flmm.data.samples import Ask, ask_as_given, ask_first_sentences_joined
from flmm.evaluation.grounding_metrics import (
    GRefSegMetric,
    GroundingMetric,
    PngMetric,
    ReasonSegMetric,
    RefSegMetric,
)


@dataclass(frozen=True)
class ProtocolSpec:
    """One protocol.

    Attributes:
        ask: what is put to the model of an image's phrases.
        metric: what measures the masks.
        words: which phrases are asked, in a line for people.
    """

    ask: Ask
    metric: type[GroundingMetric]
    words: str


PROTOCOLS = {
    "standard": ProtocolSpec(
        ask_as_given, RefSegMetric, "every sentence of every object, each alone"
    ),
    "flmm": ProtocolSpec(
        ask_first_sentences_joined,
        RefSegMetric,
        "the first sentence of each object, an image's sentences joined into one text",
    ),
    "narrative": ProtocolSpec(
        ask_as_given, PngMetric, "the noun phrases of a caption, each after the words before it"
    ),
    "grefcoco": ProtocolSpec(
        ask_as_given, GRefSegMetric, "every sentence of none, one or several objects, each alone"
    ),
    "reasonseg": ProtocolSpec(
        ask_as_given, ReasonSegMetric, "the first query of every picture, a phrase or a sentence"
    ),
}
