"""Texts that are longer than the model's context are refused before anything is computed."""

import time

import pytest

from flmm import Continuation, GroundingInferencer
from flmm.readers.prompts import ContextFullError
from flmm.toy.shape_sentences import render_samples

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
LONG = "the small red circle left of the big green star and " * 350  # 3,850 words
LIMIT = 2048


@pytest.fixture(scope="module")
def inferencer():
    return GroundingInferencer(TINY, device="cpu")


@pytest.fixture(scope="module")
def image():
    return render_samples(1, seed=12)[0].image


@pytest.fixture()
def no_pass(inferencer, image, monkeypatch):
    """The picture is read; from here on nothing is computed."""
    inferencer(image, "star")

    def refuse(*_, **__):
        raise AssertionError("the model was run")

    monkeypatch.setattr(inferencer.model.vlm._held.guard, "run", refuse)


@pytest.mark.usefixtures("no_pass")
class TestEveryEntryRefuses:
    @pytest.mark.parametrize("words", [LONG, LONG * 7])  # 27,000 words took minutes
    def test_phrases(self, inferencer, image, words):
        prefix = inferencer._read(image).prefix
        start = time.perf_counter()
        with pytest.raises(ContextFullError) as refused:
            inferencer(image, ["star", words])
        assert time.perf_counter() - start < 20  # minutes where it was computed
        tokens = len(inferencer.model.vlm.plain_text.encode_plain(words)[0])
        assert str(refused.value) == (
            f"the phrase 'the small red circle left of the big gre…' has {tokens} tokens, the "
            f"picture with its prompt holds {len(prefix)}, and the model reads {LIMIT} "
            "(max_position_embeddings): shorten the phrase"
        )

    def test_captions_and_batches(self, inferencer, image):
        vlm, prefix = inferencer.model.vlm, inferencer._read(image).prefix
        with pytest.raises(ContextFullError, match="the phrase 'the small red"):
            inferencer(image, Continuation(LONG, ((0, 20),)))
        with pytest.raises(ContextFullError, match="shorten the phrase"):
            vlm.attend([prefix, prefix], [["star"], [LONG]])

    def test_prompts(self, inferencer, image):
        vlm = inferencer.model.vlm
        message = r"the prompt 'the small red .* lower max_pixels"
        for ask in (vlm.prefill, inferencer.describe):
            with pytest.raises(ContextFullError, match=message):
                ask(image, LONG)
        with pytest.raises(ContextFullError, match=message):
            vlm.prefill([image, image], LONG)

    def test_questions(self, inferencer, image):
        vlm, prefix = inferencer.model.vlm, inferencer._read(image).prefix
        with pytest.raises(ContextFullError, match=r"the question 'the small .* shorten the que"):
            vlm.answer(prefix, ["What is this?", LONG])
        chat = inferencer.chat(image)
        with pytest.raises(ContextFullError, match=r"the question 'the small .* undo some turns"):
            chat.ask(LONG)
        assert chat.turns == [] and len(chat.dialogue.turns) == 0


def test_the_beginning_of_an_answer(inferencer, image):
    chat = inferencer.chat(image)
    with pytest.raises(ContextFullError, match="the beginning of the answer 'the small red"):
        chat.ask("What is in the picture?", begin=LONG)
    assert chat.turns == [] and len(chat.dialogue.turns) == 0


def test_what_fits_exactly_is_read(inferencer, image, monkeypatch):
    vlm = inferencer.model.vlm
    prefix = vlm.prefill(image)
    expected = vlm.attend(prefix, "the red star").maps
    rows = len(vlm.plain_text.encode_plain("the red star")[0])
    monkeypatch.setattr(vlm.text_config, "max_position_embeddings", len(prefix) + rows)
    assert vlm.attend(prefix, "the red star").maps.equal(expected)
    monkeypatch.setattr(vlm.text_config, "max_position_embeddings", len(prefix) + rows - 1)
    with pytest.raises(ContextFullError, match="the phrase 'the red star' has"):
        vlm.attend(prefix, "the red star")


def test_an_answer_ends_where_the_context_does(inferencer, image, monkeypatch):
    vlm = inferencer.model.vlm
    prefix = vlm.prefill(image)
    whole = vlm.generate(prefix)
    monkeypatch.setattr(vlm.text_config, "max_position_embeddings", len(prefix) + 3)
    cut = vlm.generate(prefix)
    assert cut and whole.startswith(cut) and len(vlm.plain_text.encode_plain(cut)[0]) <= 3
    assert vlm.answer(prefix, [vlm.default_prompt])[0] == cut
    monkeypatch.setattr(vlm.text_config, "max_position_embeddings", len(prefix))
    with pytest.raises(ContextFullError, match="shorten the prompt to leave room for an answer"):
        vlm.generate(prefix)
