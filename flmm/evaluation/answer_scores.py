"""How close an answer in words is to the true one, without a judge: pure functions, in [0, 1].

Of several true answers the best one counts. Exact match and word F1 forgive case, punctuation and
articles, ANLS misread letters. Whether another wording means the same takes a judge.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

ANLS_THRESHOLD = 0.5
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single blanks.

    Source: SQuAD's evaluation script (Rajpurkar et al., 2016). Deviation: where nothing is left,
    articles stay, then punctuation too, so that the true answers "A" and "+" can be told from each
    other and from no answer.
    """
    lower = text.lower()
    plain = lower.translate(_WITHOUT_PUNCTUATION)
    stages = (_ARTICLES.sub(" ", plain), plain, lower)
    return next((" ".join(stage.split()) for stage in stages if stage.strip()), "")


def compute_exact_match(answer: str, truths: Sequence[str]) -> float:
    """1 where the answer is one of the true ones, both normalised; else 0."""
    return _take_best(
        answer, truths, lambda a, b: float(normalise_answer(a) == normalise_answer(b))
    )


def compute_word_f1(answer: str, truths: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the normalised words, as bags.

    Source: SQuAD (Rajpurkar et al., 2016, section 6.1).
    """

    def compare(first: str, second: str) -> float:
        words, others = normalise_answer(first).split(), normalise_answer(second).split()
        common = (Counter(words) & Counter(others)).total()
        return 2 * common / (len(words) + len(others)) if common else 0.0

    return _take_best(answer, truths, compare)


def compute_anls(answer: str, truths: Sequence[str], threshold: float = ANLS_THRESHOLD) -> float:
    """The answer's term of the average normalised Levenshtein similarity.

    One minus the edit distance over the longer length, and 0 where that distance reaches the
    threshold; case and runs of blanks do not count.

    Source: Biten et al., Scene Text Visual Question Answering, ICCV 2019, equation 1: 0 where
    NL >= threshold. The script of the competition keeps a distance of exactly the threshold.
    """

    def compare(first: str, second: str) -> float:
        first, second = (" ".join(text.lower().split()) for text in (first, second))
        distance = compute_edit_distance(first, second) / max(len(first), len(second), 1)
        return 1 - distance if distance < threshold else 0.0

    return _take_best(answer, truths, compare)


def compute_edit_distance(first: str, second: str) -> int:
    """Least number of characters to insert, delete or replace (Levenshtein, 1966)."""
    row = list(range(len(second) + 1))
    for place, character in enumerate(first, start=1):
        before, row[0] = row[0], place
        for column, other in enumerate(second, start=1):
            replaced = before + (character != other)
            before = row[column]
            row[column] = min(replaced, before + 1, row[column - 1] + 1)
    return row[-1]


def score_answer(answer: str, truths: Sequence[str]) -> dict[str, float]:
    """``{"exact_match", "anls", "word_f1"}`` of one answer."""
    return {
        "exact_match": compute_exact_match(answer, truths),
        "anls": compute_anls(answer, truths),
        "word_f1": compute_word_f1(answer, truths),
    }


def _take_best(answer: str, truths: Sequence[str], compare: Callable[[str, str], float]) -> float:
    if isinstance(truths, str) or not truths:
        raise ValueError(f"the true answers are {truths!r}: give a list of at least one")
    return max(compare(answer, truth) for truth in truths)
