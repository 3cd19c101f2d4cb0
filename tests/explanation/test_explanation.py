"""Token -> region: maps are the reader's own, whatever way they are asked for."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from flmm.apps.explanation import ExplainedToken, explain, reading
from flmm.apps.explanation.tokens import join_text
from flmm.conversation import Chat, TurnToken
from flmm.geometry import merge_grids
from flmm.grounder import Grounder
from flmm.readers import FrozenVLM
from flmm.records import Continuation, Grid, ImageInput
from tests.explanation.conftest import QUESTION, describe
from tests.small_models import build_small_model, load_processor

ANSWER = "A red cup, 左边的杯子 and a tall man in white."


def check_against_attend(vlm, chat, image, answer):
    """Every token's maps are those of ``attend`` on the same text behind the same question."""
    explanation = explain(chat)
    own = [index for index, token in enumerate(explanation.tokens) if token.role == "answer"]
    # One phrase per token that ends a character (the others have no characters of their own).
    kept = [index for index in own if explanation.tokens[index].text.strip()]
    spans = tuple(explanation.tokens[index].span for index in kept)
    prefix = vlm.prefill(image, prompt=QUESTION)
    assert len(own) == len(vlm.plain_text.encode_plain(answer)[0])
    for index, span in zip(kept, spans):
        seen = vlm.attend(prefix, [Continuation(answer, (span,))])
        if len(seen.text_features[0][0]) > 1:  # attend takes all tokens of a character
            continue
        expected = merge_grids(seen.grid_maps, chat.images[0])[0].numpy()
        np.testing.assert_allclose(explanation.head_maps(index)[0], expected, rtol=0, atol=1e-5)
        merged = explanation.token_maps(index)[0]
        np.testing.assert_allclose(merged, expected.mean(0), rtol=0, atol=1e-5)
    # A range: all of the answer.
    seen = vlm.attend(prefix, [Continuation(answer)])
    expected = merge_grids(seen.grid_maps, chat.images[0])[0].numpy()
    whole = own[0], own[-1] + 1
    np.testing.assert_allclose(explanation.head_maps(whole)[0], expected, atol=1e-5)
    np.testing.assert_allclose(explanation.token_maps(whole)[0], expected.mean(0), atol=1e-5)


def test_maps_of_an_answer_are_those_of_attend(inferencer, tell):
    described = describe(3)
    check_against_attend(inferencer.model.vlm, tell(described), described.image, described.text)


def test_the_grids_of_a_picture_are_added_by_area():
    """Tiles of 2 x 3 cells, and a thumbnail whose two cells reach over the picture's edge."""
    picture = np.zeros((40, 60, 3), np.uint8)
    fine = Grid(torch.zeros(2, 3, dtype=torch.int64), (0.0, 0.0, 60.0, 40.0))
    coarse = Grid(torch.zeros(1, 2, dtype=torch.int64), (0.0, -40.0, 60.0, 40.0))
    image = ImageInput(torch.zeros(1), {}, torch.zeros(1), [fine, coarse], picture)
    maps = [torch.zeros(1, 2, 3), torch.tensor([[[6.0, 12.0]]])]
    maps[0][0, 1, 2] = 1.0
    # Half of the thumbnail lies over the picture; its border cuts the middle column in two.
    expected = [[1.0, 1.5, 2.0], [1.0, 1.5, 3.0]]
    np.testing.assert_allclose(merge_grids(maps, image)[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "family", ["qwen2_5_vl", "qwen3_vl", "llava_padded", "llava_next", "internvl"]
)
def test_maps_of_every_family_are_those_of_attend(data_dir, family):
    processor = load_processor(data_dir, family)
    vlm = FrozenVLM.from_model(build_small_model(data_dir, family), processor)
    grounder = Grounder(vlm, {"type": "UNetHead", "base_channels": 4})
    image = np.random.default_rng(0).integers(0, 255, (100, 140, 3), dtype=np.uint8)
    chat = Chat(grounder, vlm.prefill(image))
    chat.ask(QUESTION, begin=ANSWER, max_new_tokens=0)
    check_against_attend(vlm, chat, image, ANSWER)


def test_one_pass_in_portions_keeps_tokens_times_cells(two_pictures, explanation, monkeypatch):
    asked = []
    look = two_pictures.look
    monkeypatch.setattr(
        two_pictures, "look", lambda spans: (asked.append(len(spans)), look(spans))[1]
    )
    monkeypatch.setattr(
        reading, "MAX_WEIGHTS", 7 * 30 * sum(grid[0].size for grid in explanation.maps)
    )
    portioned = explain(two_pictures)
    turns = [sum(token.turn == turn for token in explanation.tokens) for turn in (0, 1)]
    assert max(asked) == 7 and len(asked) == sum(-(-tokens // 7) for tokens in turns)
    for own, other, image in zip(explanation.maps, portioned.maps, two_pictures.images):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-6)
        assert (
            own.shape == (len(explanation.tokens), *image.grids[0].size) and own.dtype == np.float32
        )


def test_chosen_heads_are_averaged(two_pictures, explanation):
    chosen = explain(two_pictures, heads=[(1, 0), (3, 5)])
    index = explanation.find("red circle")[0][0]
    for merged, own in zip(chosen.token_maps(index), explanation.head_maps(index)):
        np.testing.assert_allclose(merged, own[[6, 23]].mean(0), atol=1e-6)
    assert "2 of 30" in chosen.describe_heads() and "all 30" in explanation.describe_heads()


def test_a_later_picture_is_not_seen(explanation):
    first = explanation.find("Please")[0]
    here, later = explanation.token_maps(first)
    assert here.sum() > 0.05 and not later.any()
    assert all(item.token.turn == 1 for item in explanation.rank_tokens(1, box=(0, 0, 50, 50)))
    with pytest.raises(ValueError, match="was said before picture 1 was shown"):
        explanation.ground(first, image=1)


def test_words_are_found_with_all_their_tokens(explanation):
    tokens = explanation.tokens
    for text, role in (
        ("café", "answer"),
        ("左边", "answer"),
        ("😀", "answer"),
        ("BIG ONE", "question"),
    ):
        ((start, end),) = explanation.find(text, turn=1, role=role)
        written = explanation.turns[1].text if role == "answer" else explanation.turns[1].question
        found = written[tokens[start].span[0] : tokens[end - 1].span[1]]
        assert found.strip().lower() == text.lower()
        assert {token.role for token in tokens[start:end]} == {role}
    start, end = explanation.find("😀")[0]
    assert end - start > 1 and join_text(tokens[start:end]) == "😀"
    with pytest.raises(ValueError, match="'ircl' stands nowhere in this conversation"):
        explanation.find("ircl")


def test_a_mask_is_that_of_the_chat(two_pictures, explanation):
    """The words in brackets were pointed at by the chat; the explanation must agree."""
    phrase = two_pictures.turns[1].phrases[0]
    assert phrase.text == "big one"
    again = explanation.ground("big one")
    assert np.array_equal(again.mask, phrase.mask) and again.image == phrase.image
    assert again.score == pytest.approx(phrase.score) and again.text == phrase.text
    np.testing.assert_array_equal(again.box_xyxy, phrase.box_xyxy)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("a", "stands in this conversation .* times, at the tokens"),
        ("unicorn", "'unicorn' stands nowhere"),
        ("  ", "give at least one letter"),
        (-1, "there are no tokens -1 to 0: this conversation has"),
        (9999, "there are no tokens 9999"),
        ((5, 5), "there are no tokens 5 to 5"),
        (ExplainedToken(0, (0, 1), "x", "answer", 7), "is no token of this conversation"),
        ((0, 15), "run from the question of turn 0 into the answer of turn 0"),
    ],
)
def test_wrong_choices_say_so(explanation, choice, message):
    with pytest.raises(ValueError, match=message):
        explanation.token_maps(choice)


def test_tokens_before_the_first_picture_cannot_look(tell):
    chat = tell(describe(4))
    chat.turns[0].tokens.insert(0, TurnToken(0, (0, 0), "", "question"))
    explanation = explain(chat)
    assert not explanation.maps[0][0].any()
    for method in (explanation.token_maps, explanation.head_maps, explanation.ground):
        with pytest.raises(ValueError, match="stands before the first picture and cannot look"):
            method(0)
    assert explanation.token_maps(1)[0].any()


def test_wrong_heads_and_empty_chats_say_so(inferencer, tell):
    with pytest.raises(ValueError, match="no turn to explain yet"):
        explain(inferencer.chat(describe(4).image))
    chat = tell(describe(4))
    with pytest.raises(ValueError, match="no head 6 of layer 0: this reader has layers 0 to 4"):
        explain(chat, heads=[(0, 6)])
    with pytest.raises(ValueError, match="no head is given"):
        explain(chat, heads=[])


def test_an_answer_without_words_is_explained_too(inferencer, tmp_path):
    chat = inferencer.chat(describe(4).image)
    chat.ask("What?", max_new_tokens=0)
    explanation = explain(chat)
    assert {token.role for token in explanation.tokens} == {"question"}
    for save in (explanation.save_png, explanation.save_html, explanation.save_json):
        assert save(tmp_path / "saved.png").stat().st_size > 1000


def test_turns_taken_back_are_noticed(tell):
    chat = tell(describe(4))
    explanation = explain(chat)
    before = explanation.token_maps(3)[0]
    chat.undo()
    np.testing.assert_array_equal(explanation.token_maps(3)[0], before)
    with pytest.raises(ValueError, match="taken back since it was explained"):
        explanation.head_maps(3)


def test_json_holds_everything(explanation, tmp_path):
    path = explanation.save_json(tmp_path / "new" / "explanation.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert [turn["text"] for turn in report["turns"]] == [turn.text for turn in explanation.turns]
    assert report["turns"][1]["phrases"] == explanation.turns[1].to_coco()
    for image in (0, 1):
        maps = np.array([token["maps"][image] for token in report["tokens"]])
        np.testing.assert_allclose(maps, explanation.maps[image], rtol=1e-5)
    assert [token["text"] for token in report["tokens"]] == [t.text for t in explanation.tokens]


def test_pictures_are_drawn(explanation, tmp_path):
    sheet = Image.open(explanation.save_png(tmp_path / "sheet.png")).convert("RGB")
    words = explanation.save_png(tmp_path / "words.png", [explanation.find("circle")[-1]])
    ranking = explanation.save_ranking_png(tmp_path / "ranking.png", 1, box=(20, 20, 90, 90))
    assert sheet.width == 1120 and np.asarray(sheet).std() > 20
    for path in (words, ranking):
        assert np.asarray(Image.open(path).convert("RGB")).std() > 20
    with pytest.raises(ValueError, match="no word to draw"):
        explanation.save_png(tmp_path / "none.png", [])
