"""Answer scores against published examples and slow versions written from the definitions."""

import functools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flmm.evaluation.answer_scores import (
    compute_anls,
    compute_edit_distance,
    compute_exact_match,
    compute_word_f1,
    normalise_answer,
    score_answer,
)

TEXTS = st.text(alphabet="abT e.,'-é1", max_size=9)
WORDS = st.lists(st.sampled_from(["the", "red", "cup", "Red", "a", "two"]), max_size=6)


def measure_distance_slowly(first, second):
    """Levenshtein's distance from its recursive definition."""

    @functools.cache
    def measure(i, j):
        if min(i, j) == 0:
            return max(i, j)
        changed = first[i - 1] != second[j - 1]
        return min(measure(i - 1, j) + 1, measure(i, j - 1) + 1, measure(i - 1, j - 1) + changed)

    return measure(len(first), len(second))


def compute_f1_slowly(answer, truth):
    """Word F1 by striking out words one at a time; articles and marks are stripped by hand."""

    def split(text):
        kept = "".join(c for c in text.lower() if c not in string.punctuation)
        return [word for word in kept.split() if word not in ("a", "an", "the")]

    words, left = split(answer), split(truth)
    total, common = len(left), 0
    for word in words:
        if word in left:
            left.remove(word)
            common += 1
    if common == 0:
        return 0.0
    precision, recall = common / len(words), common / total
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("kitten", "sitting", 3), ("saturday", "sunday", 3), ("", "abc", 3), ("", "", 0)],
)
def test_edit_distance_of_textbook_pairs(first, second, distance):
    assert compute_edit_distance(first, second) == distance


@given(TEXTS, TEXTS)
def test_edit_distance_is_the_recursive_definition(first, second):
    assert compute_edit_distance(first, second) == measure_distance_slowly(first, second)


# The first three: the metric card "anls" of huggingface/evaluate.
@pytest.mark.parametrize(
    ("answer", "truths", "score"),
    [
        ("Denver Broncos", ["Denver Broncos", "Denver R. Broncos"], 1.0),
        ("12/15/89", ["12/15/88"], 1 - 1 / 8),
        ("Dear dr. Lobo", ["Dear Dr. Lobo", "Dr. Lobo"], 1.0),
        ("kitten", ["sitting"], 1 - 3 / 7),
        (" the   Red\ncup ", ["the red cup"], 1.0),
        ("red", ["the red cup"], 0.0),  # 8 of 11 characters are missing
        ("ab", ["ac"], 0.0),  # the distance is the threshold: equation 1 says 0
        ("", ["cup"], 0.0),
        ("Yes", ["No"], 0.0),
    ],
)
def test_anls(answer, truths, score):
    assert compute_anls(answer, truths) == pytest.approx(score)


@given(TEXTS, TEXTS)
def test_anls_is_equation_1(answer, truth):
    first, second = (" ".join(text.lower().split()) for text in (answer, truth))
    longer = max(len(first), len(second))
    distance = measure_distance_slowly(first, second) / longer if longer else 0.0
    expected = 1 - distance if distance < 0.5 else 0.0
    assert compute_anls(answer, [truth]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Red, cup!", "red cup"),
        ("an apple a day", "apple day"),
        ("theatre", "theatre"),
        ("$24,26,435", "2426435"),
        ("A.", "a"),  # nothing else is left
        ("the", "the"),
        ("+", "+"),
        (" \n", ""),
    ],
)
def test_normalised_answers(text, expected):
    assert normalise_answer(text) == expected


@pytest.mark.parametrize(
    ("answer", "truths", "exact", "f1"),
    [
        ("the red cup.", ["Red cup"], 1.0, 1.0),
        ("a big red cup", ["red cup"], 0.0, 2 * (2 / 3) / (2 / 3 + 1)),
        ("red red", ["red cup"], 0.0, 0.5),  # a word counts as often as both hold it
        ("dog", ["cat", "the dog"], 1.0, 1.0),
        ("cat", ["dog"], 0.0, 0.0),
        ("", ["dog"], 0.0, 0.0),
        ("", ["a"], 0.0, 0.0),  # SQuAD's own script would call these two equal
        ("A", ["the"], 0.0, 0.0),
        ("B", ["B"], 1.0, 1.0),
    ],
)
def test_exact_match_and_word_f1(answer, truths, exact, f1):
    scores = score_answer(answer, truths)
    assert (scores["exact_match"], scores["word_f1"]) == (exact, pytest.approx(f1))
    assert set(scores) == {"exact_match", "anls", "word_f1"}


@given(WORDS, WORDS)
def test_word_f1_is_the_slow_one(words, others):
    answer, truth = " ".join(words), ", ".join(others)
    content = [set(map(str.lower, part)) - {"a", "the"} for part in (words, others)]
    if all(content):  # otherwise an article is all that is left, and stays
        assert compute_word_f1(answer, [truth]) == pytest.approx(compute_f1_slowly(answer, truth))


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_the_best_true_answer_counts_and_scores_are_fractions(answer, truths):
    for compute in (compute_exact_match, compute_anls, compute_word_f1):
        best = max(compute(answer, [truth]) for truth in truths)
        assert compute(answer, truths) == best and 0 <= best <= 1


@pytest.mark.parametrize("truths", [[], "cup"])
def test_true_answers_are_a_list(truths):
    with pytest.raises(ValueError, match="give a list of at least one"):
        compute_exact_match("cup", truths)
