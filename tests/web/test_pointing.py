"""Token -> region and region -> token, against sums written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from flmm.apps.explanation.reading import compute_region_coverage
from flmm.apps.explanation.tokens import ExplainedToken, list_tokens
from flmm.apps.web.pictures import draw_samples
from flmm.apps.web.pointing import (
    ListSelector,
    compute_excess,
    look_from_token,
    rank_words,
    read_turn_maps,
)
from flmm.conversation import Chat
from flmm.inferencer import GroundingInferencer
from tests.web.page_requests import QUESTION


@pytest.fixture(scope="module")
def chat(inferencer: GroundingInferencer) -> Chat:
    chat = inferencer.chat(draw_samples()[3].image, [ListSelector()])
    chat.ask(QUESTION, begin="a")
    chat.ask("where is the square?", begin="the")
    return chat


@pytest.fixture(scope="module")
def maps(chat: Chat) -> np.ndarray:
    return np.concatenate([read_turn_maps(chat, turn) for turn in range(len(chat.turns))])


def build_tokens(*pieces: tuple[int, str, str]) -> list[ExplainedToken]:
    """Tokens from (turn, role, text), each behind the one before it."""
    tokens: list[ExplainedToken] = []
    for place, (turn, role, text) in enumerate(pieces):
        before = [token.span[1] for token in tokens if (token.turn, token.role) == (turn, role)]
        start = before[-1] if before else 0
        tokens.append(ExplainedToken(place, (start, start + len(text)), text, role, turn))
    return tokens


def test_turn_maps_are_the_mean_of_what_the_chat_sees(chat: Chat, maps: np.ndarray) -> None:
    tokens = list_tokens(chat.turns)
    assert len(maps) == len(tokens)
    for index in (0, 15, len(maps) - 1):
        place = tokens[index].place
        seen = chat.look([(place, place + 1)])[0].maps[0].numpy()
        np.testing.assert_allclose(maps[index], seen.mean(0), rtol=1e-4, atol=1e-6)


def test_words_are_ranked_as_by_hand(chat: Chat, maps: np.ndarray) -> None:
    height, width = chat.images[0].original_size
    box = [width // 3, 0, width, height // 2]
    tokens = list_tokens(chat.turns)
    coverage = compute_region_coverage((height, width), maps.shape[1:], box)
    words = rank_words(tokens, maps, coverage)
    scores = [word.excess for word in words]
    assert scores == sorted(scores, reverse=True)
    assert {word.token.turn for word in words} == {0, 1}
    assert {word.token.role for word in words} == {"question", "answer"}
    # A word of one token that stands once, counted pixel by pixel.
    word = next(word for word in words if word.token.text == "description")
    index = next(i for i, token in enumerate(tokens) if token.text.strip() == word.token.text)
    pixels = np.kron(maps[index], np.ones((height, width)))  # every cell is height x width pixels
    rows, columns = maps.shape[1:]
    inside = pixels[: box[3] * rows, box[0] * columns :]
    expected = inside.sum() / pixels.sum() - inside.size / pixels.size
    assert word.excess == pytest.approx(expected, abs=1e-6)
    assert compute_excess(tokens, maps, coverage)[0][index] == pytest.approx(expected, abs=1e-6)


def test_a_phrase_is_found_where_its_mask_is(chat: Chat, maps: np.ndarray) -> None:
    """The drawn square's own words are the first that look at it."""
    square = chat.turns[0].phrases[0]
    assert "square" in square.text
    tokens = [token for token in list_tokens(chat.turns) if token.turn == 0]
    size = chat.images[0].original_size
    coverage = compute_region_coverage(size, maps.shape[1:], mask=square.mask)
    best = rank_words(tokens, maps[: len(tokens)], coverage)[0]
    assert best.token.role == "answer" and best.token.text in square.text


def test_a_token_looks_where_the_chat_says(chat: Chat) -> None:
    token = chat.turns[0].tokens[-3]
    all_heads, best_heads, mask = look_from_token(chat, token)
    seen = chat.look([(token.place, token.place + 1)])[0]
    assert np.allclose(all_heads, seen.maps[0].mean(0).numpy(), atol=1e-6)
    assert mask.shape == chat.images[0].original_size and mask.dtype == bool
    assert np.array_equal(mask, chat.ground(seen, 0)[0].mask)
    assert best_heads.shape == all_heads.shape
    assert best_heads.sum() == pytest.approx(1.0, abs=1e-4)


def test_a_word_looks_where_its_tokens_do_on_average() -> None:
    tokens = build_tokens((0, "question", "pur"), (0, "question", "ple"), (0, "question", "?"))
    maps = np.zeros((3, 1, 4), np.float32)
    maps[0, 0, 0], maps[1, 0, 3], maps[2, 0, 0] = 3, 1, 5
    (word,) = rank_words(tokens, maps, np.array([[1.0, 0, 0, 0]]))
    assert (word.token.text, word.excess) == ("purple", pytest.approx(0.75 - 0.25))
    excess = compute_excess(tokens, maps, np.array([[1.0, 0, 0, 0]]))
    assert excess == [[pytest.approx(0.75), pytest.approx(-0.25), pytest.approx(0.75)]]


def test_tokens_that_see_nothing_have_no_excess() -> None:
    tokens = build_tokens((0, "question", "a"), (1, "answer", " b"))
    maps = np.stack([np.zeros((2, 2)), np.ones((2, 2))])
    coverage = np.array([[1.0, 1], [0, 0]])
    assert compute_excess(tokens, maps, coverage) == [[0.0], [0.0]]
    assert [word.token.text for word in rank_words(tokens, maps, coverage)] == ["b"]


def test_mere_marks_are_no_words() -> None:
    tokens = build_tokens((0, "question", "?!"))
    assert rank_words(tokens, np.ones((1, 2, 2)), np.ones((2, 2))) == []
