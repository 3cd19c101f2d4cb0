"""How an image's expressions are put to the model: the protocols that figures are named by.

In: a sample with every sentence of every ref, in the order of the refs file. Out: the texts to be
fed and, for each of their phrases, its row in the sample. Two readers of one table can only compare
figures of the same protocol, so every result names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flmm.data.refcoco import build_continuations
from flmm.records import Continuation, GroundingSample


class Question(NamedTuple):
    """What is asked about one image.

    Attributes:
        continuations: texts with their phrases.
        rows: per phrase, its row in the sample's ``expression_ids`` and ``gt_masks``.
    """

    continuations: list[Continuation]
    rows: list[int]


Protocol = Callable[[GroundingSample], Question]


def ask_as_given(sample: GroundingSample) -> Question:
    """The data set's own texts.

    Protocol ``standard``: every sentence of every ref, each isolated (LISA, Sa2VA). Protocol
    ``narrative``: a caption with its noun phrases.
    """
    return Question(sample.continuations, list(range(len(sample.phrases))))


def ask_first_sentences_joined(sample: GroundingSample) -> Question:
    """Protocol ``flmm``: the first sentence of each ref, all refs of an image in one text.

    Source: F-LMM scripts/multiprocess_eval_refcoco.py with ``--concat``. Deviation: a ref whose
    first sentence is blank is asked with its next one.
    """
    first = {ref_id: row for row, ref_id in reversed(list(enumerate(sample.ref_ids)))}
    rows, phrases = sorted(first.values()), sample.phrases
    return Question(build_continuations([phrases[row] for row in rows], joined=True), rows)


REFER_PROTOCOLS: dict[str, Protocol] = {
    "standard": ask_as_given,
    "flmm": ask_first_sentences_joined,
}
