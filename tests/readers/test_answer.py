"""Questions about one image, side by side: each answer is transformers' own to that prompt."""

import pytest
import torch

from flmm.readers.decoding import PackedTexts
from tests.readers.conftest import FEW, find_vision_tower

FAMILIES = FEW
QUESTIONS = [
    "What is left of the lamp?",
    "左边的红色杯子在哪里？",
    "Locate the tall man in the white shirt who stands by the old lamp post, waving both arms.",
    "x",
]


@pytest.fixture(scope="module")
def image(noise):
    return noise(100, 140)


def test_the_image_is_read_once_for_all_questions(vlm, image):
    seen = []
    hook = find_vision_tower(vlm).register_forward_hook(lambda *_: seen.append(1))
    try:
        vlm.answer(image, QUESTIONS, max_new_tokens=3)
        assert len(seen) == 1
        prefix = vlm.prefill(image)
        vlm.answer(prefix, QUESTIONS, max_new_tokens=3)
        assert len(seen) == 2
    finally:
        hook.remove()


def test_any_prefix_of_the_image_serves_and_serves_again(vlm, image):
    expected = vlm.answer(image, QUESTIONS, max_new_tokens=8)
    prefix = vlm.prefill(image, "A prompt that has nothing to do with it.")
    own, maps = vlm.generate(prefix, 8), vlm.attend(prefix, ["x"]).maps
    assert vlm.answer(prefix, QUESTIONS, max_new_tokens=8) == expected
    assert {layer.get_seq_length() for layer in prefix.cache.layers} == {len(prefix)}
    assert vlm.generate(prefix, 8) == own
    assert vlm.attend(prefix, ["x"]).maps.equal(maps)


def test_answers_do_not_depend_on_their_company(vlm, image, monkeypatch):
    prefix = vlm.prefill(image)
    together = vlm.answer(prefix, QUESTIONS, max_new_tokens=8)
    assert [vlm.answer(prefix, [item], max_new_tokens=8)[0] for item in QUESTIONS] == together
    assert vlm.answer(prefix, QUESTIONS[::-1], max_new_tokens=8) == together[::-1]
    monkeypatch.setattr(vlm, "max_rows", 30)  # several packs
    assert vlm.answer(prefix, QUESTIONS, max_new_tokens=8) == together


def test_each_answer_ends_at_its_own_end_of_turn(vlm, image, monkeypatch):
    prefix = vlm.prefill(image)
    end = prefix.image_columns.stop
    texts = [vlm.turns.encode(text, [prefix.image_input]).input_ids[end:] for text in QUESTIONS]
    longer = PackedTexts(vlm, prefix, end, texts).write(6)
    assert [len(ids) for ids in longer] == [6] * len(QUESTIONS)
    stop = longer[0][2]
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [stop])
    shorter = PackedTexts(vlm, prefix, end, texts).write(6)
    expected = [ids[: ids.index(stop)] if stop in ids else ids for ids in longer]
    assert shorter == expected
    assert len(shorter[0]) <= 2 and max(map(len, shorter)) == 6


def test_control_tokens_of_an_answer_are_kept_on_demand(vlm, image):
    placeholder = vlm.family.processor.image_token
    index = vlm.model.config.image_token_id

    def say_it(module, inputs, logits):
        return logits.index_fill(-1, torch.tensor(index), 1e6)

    hook = vlm.model.get_output_embeddings().register_forward_hook(say_it)
    try:
        assert vlm.answer(image, ["x"], 1) == [""]
        kept = vlm.answer(image, ["x", "y"], 1, skip_special_tokens=False)
        assert kept == [placeholder] * 2
    finally:
        hook.remove()


def test_control_tokens_in_a_question_are_read_as_text(vlm, image):
    hostile = "".join(token.content for token in vlm.tokenizer.added_tokens_decoder.values())
    prefix = vlm.prefill(image)
    ids, plain = (vlm.turns.encode(text, [prefix.image_input]).input_ids for text in (hostile, ""))
    control = set(vlm.tokenizer.added_tokens_decoder)
    assert [i for i in ids if i in control] == [i for i in plain if i in control]
    assert len(vlm.answer(prefix, [hostile], 3)) == 1


def test_no_question_no_answer_and_no_string_for_a_list(vlm, image):
    assert vlm.answer(image, []) == []
    with pytest.raises(TypeError, match="questions is no list of str: give a list"):
        vlm.answer(image, "Where?")
    with pytest.raises(TypeError, match="questions is no list of str"):
        vlm.answer(image, ["Where?", None])
