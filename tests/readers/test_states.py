"""Layers without attention: a state is known behind the last token alone, and is never packed."""

import copy

import pytest
from transformers import AutoConfig
from transformers.cache_utils import LinearAttentionLayer

from flmm.readers import FrozenVLM
from flmm.readers.caches import StateLayer, find_attention_layers
from flmm.readers.families import find_family
from flmm.readers.published_sizes import PUBLISHED_SIZES
from tests.readers.conftest import find_vision_tower
from tests.readers.test_family_contract import ANSWERS, QUESTIONS, assert_same
from tests.readers.test_reader_contract import CAPTION, PHRASES, relative_difference
from tests.small_models import build_small_config, build_small_model, load_processor

FAMILIES = ("qwen3_5",)
ASKED = [*PHRASES, CAPTION]


def list_states(cache):
    """The two tensors of each layer that keeps a state."""
    layers = [layer for layer in cache.layers if isinstance(layer, StateLayer)]
    assert len(layers) == 2
    return [item for layer in layers for item in (layer.conv_states[0], layer.recurrent_states[0])]


@pytest.fixture()
def passes(vlm):
    """Rows and columns of every pass of the language model, and how many pictures were seen."""
    found, seen = [], []
    hooks = [
        vlm.model.get_decoder().register_forward_hook(
            lambda module, args, kwargs, output: found.append(output[0].shape[:2]), with_kwargs=True
        ),
        find_vision_tower(vlm).register_forward_hook(lambda *_: seen.append(1)),
    ]
    yield found, seen
    for hook in hooks:
        hook.remove()


def test_each_phrase_has_a_row_of_its_own_as_many_as_a_pass_may_hold(
    vlm, noise, passes, monkeypatch
):
    prefix = vlm.prefill(noise(100, 140))
    found, _ = passes
    found.clear()
    together = vlm.attend(prefix, ASKED)
    longest = max(map(len, together.input_ids))
    assert found == [(len(ASKED), longest)]
    for limit, rows in ((2 * (len(prefix) + longest), [2, 2, 1]), (1, [1] * len(ASKED))):
        monkeypatch.setattr(vlm, "max_batch_tokens", limit)
        found.clear()
        assert_same(vlm.attend(prefix, ASKED), together)
        assert [shape[0] for shape in found] == rows


def test_packed_phrases_would_hear_each_other(vlm, noise, monkeypatch):
    """The control: these weights remember."""
    prefix = vlm.prefill(noise(100, 140))
    expected = vlm.attend(prefix, PHRASES).maps
    monkeypatch.setattr(vlm, "keeps_states", False)
    assert relative_difference(vlm.attend(prefix, PHRASES).maps, expected) > 0.05


def test_nothing_writes_into_a_state_and_a_prefix_shares_its_batchs(vlm, noise):
    prefixes = vlm.prefill([noise(100, 140), noise(100, 140)])
    prefix = prefixes[1]
    held = [(state, state.clone()) for state in list_states(prefix.cache)]
    for (own, _), shared in zip(held, list_states(prefix.batch.cache)):
        assert own.untyped_storage().data_ptr() == shared.untyped_storage().data_ptr()
    vlm.attend(prefixes, [ASKED, ASKED])
    vlm.attend(prefix, ASKED)
    vlm.generate(prefix, 3)
    vlm.answer(prefix, QUESTIONS, 3)
    dialogue = vlm.converse(prefix)
    for question, text in zip(QUESTIONS, ANSWERS):
        dialogue.ask(question)
        dialogue.begin(text)
        dialogue.look([dialogue.turns[0].answer])
        list(dialogue.write(3))
    assert list_states(prefix.cache) and all(
        now is own and now.equal(before)
        for now, (own, before) in zip(list_states(prefix.cache), held)
    )


def test_other_questions_about_a_reading_see_its_picture_once_more(vlm, noise, passes):
    _, seen = passes
    image = noise(100, 140)
    prefix = vlm.prefill(image)
    assert len(seen) == 1
    answers = vlm.answer(prefix, QUESTIONS[:2], 4)
    vlm.converse(prefix).ask(QUESTIONS[0])
    assert len(seen) == 2  # the same reading served both
    assert vlm.answer(image, QUESTIONS[:2], 4) == answers
    vlm.converse(image).ask(QUESTIONS[0])
    assert len(seen) == 4  # one each
    vlm.generate(prefix, 2)
    assert len(seen) == 4  # a state behind the prompt serves


def test_a_conversation_keeps_the_states_behind_its_pictures_and_the_last_question(vlm, noise):
    images = [noise(100, 140), noise(120, 70)]
    dialogue = vlm.converse(images[0])
    for number, question in enumerate([*QUESTIONS, QUESTIONS[0]]):
        shown = [vlm.image_processor.encode(images[1])] if number == 1 else []
        dialogue.ask(question, shown)
        list(dialogue.write(3))
    pictures = {image.columns.stop for image in dialogue.images}
    layer = dialogue._cache.layers[0]
    begun = dialogue.turns[-1].start - 1  # the last token of an answer is fed with what follows
    assert set(layer.kept) == pictures | {begun}
    expected = dialogue.look([turn.answer for turn in dialogue.turns])
    aside = dialogue.fork()
    for _ in range(3):  # back to a place whose state is not kept
        aside.undo()
    assert len(aside.images) == 1
    aside.ask(QUESTIONS[1], [vlm.image_processor.encode(images[1])])
    list(aside.write(3))
    again = aside.look([turn.answer for turn in aside.turns])
    for own, whole in zip(again, expected):
        assert relative_difference(own.maps, whole.maps[:2]) < 1e-5


def test_an_answer_begins_without_a_thought(data_dir):
    processor = copy.copy(load_processor(data_dir, "qwen3_5"))
    small = "{% if enable_thinking is true %}"
    assert small in processor.chat_template
    # That of the larger models, which think unless they are told not to.
    processor.chat_template = processor.chat_template.replace(
        small, "{% if enable_thinking is not defined or enable_thinking is true %}"
    )
    config = build_small_config(data_dir, "qwen3_5")
    family = find_family(config)(config, processor)
    _, after = family.render(1, is_first=True)
    assert after == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_a_transformers_that_keeps_states_otherwise_is_refused(data_dir, monkeypatch):
    model = build_small_model(data_dir, "qwen3_5")
    monkeypatch.delattr(
        "transformers.cache_utils.LinearAttentionCacheLayerMixin.activate_past_recording"
    )
    assert not hasattr(LinearAttentionLayer, "activate_past_recording")
    with pytest.raises(ValueError, match=r"keeps otherwise than flmm reads them: install trans"):
        FrozenVLM.from_model(model, load_processor(data_dir, "qwen3_5"))


@pytest.mark.parametrize("name", ["Qwen3.5-9B", "Qwen3.5-35B-A3B"])
def test_every_fourth_layer_of_a_published_model_has_attention(name):
    values = dict(PUBLISHED_SIZES[name])
    config = AutoConfig.for_model(values.pop("model_type"), **values).get_text_config()
    layers = find_attention_layers(config)
    assert layers == list(range(3, config.num_hidden_layers, 4))
