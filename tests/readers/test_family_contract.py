"""What every family owes: transformers' own tokens, attention and answers, on small random weights.

In each test one reading serves several properties: readings are what costs.
"""

import pytest
import torch

from flmm.readers import FrozenVLM
from flmm.records import Continuation
from tests.readers.conftest import EagerReference, ask
from tests.readers.test_reader_contract import CAPTION, PHRASES, relative_difference
from tests.small_models import build_small_model, load_processor

SIZES = {
    "square": (150, 150),
    "wide": (90, 430),
    "tall": (430, 90),
    "tiny": (9, 34),
    "huge": (600, 800),
}
HEAVY = ("tall", "huge")  # other sizes are the layouts' matter: test_layouts.py
QUESTIONS = ["What is left of the lamp?", "它旁边的红色杯子呢？", "And what is it made of?"]
ANSWERS = ["A red cup, 左边的杯子 and a tall man in white.", "It is blue."]


def assert_same(seen, expected):
    """Two records of the same continuations."""
    assert all(map(torch.equal, seen.input_ids, expected.input_ids))
    for got, wanted in zip(seen.grid_maps, expected.grid_maps, strict=True):
        assert got.shape == wanted.shape and relative_difference(got, wanted) < 1e-5
    for got, wanted in zip(seen.text_features, expected.text_features, strict=True):
        assert got.shape == wanted.shape and relative_difference(got, wanted) < 1e-5


def assert_seen(seen, phrase, rows, prefix, attentions, hidden_states):
    """A phrase of a record against rows of one eager pass."""
    columns = attentions[:, rows].mean(1)
    for maps, grid in zip(seen.grid_maps, prefix.grids, strict=True):
        expected = columns[:, grid.columns]
        assert expected.std() > 0.1 * expected.mean()  # the comparison means something
        assert relative_difference(maps[phrase], expected) < 1e-5
    assert relative_difference(seen.text_features[phrase], hidden_states[:, rows]) < 1e-5


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(size, id=name, marks=[pytest.mark.heavy] * (name in HEAVY))
        for name, size in SIZES.items()
    ],
)
def test_what_is_read_equals_one_eager_pass_for_each_continuation(vlm, eager, noise, size):
    image = noise(*size)
    prefix = vlm.prefill(image)
    one, many = vlm.attend(prefix, PHRASES[0]), vlm.attend(prefix, [*PHRASES, CAPTION])
    assert many.maps.dtype == torch.float32 and len(prefix.grids) <= vlm.num_grids
    for maps, grid in zip(many.grid_maps, prefix.grids, strict=True):
        assert maps.shape == (len(PHRASES) + len(CAPTION.spans), vlm.num_maps, *grid.size)
        assert maps.min() >= 0 and maps.max() <= 1
    cells = torch.cat([grid.columns.flatten() for grid in prefix.grids])
    assert len(cells.unique()) == len(cells)
    texts = list(enumerate(PHRASES))
    for number, phrase in texts if size != SIZES["huge"] else texts[1:2]:
        ids, attentions, hidden_states = eager.read(image, vlm.default_prompt, phrase)
        assert ids.tolist() == [*prefix.input_ids.tolist(), *many.input_ids[number].tolist()]
        rows = slice(len(prefix), len(ids))
        assert_seen(many, number, rows, prefix, attentions, hidden_states)
    ids, attentions, hidden_states = eager.read(image, vlm.default_prompt, CAPTION.text)
    assert ids[len(prefix) :].equal(many.input_ids[-1])
    offsets = vlm.plain_text.encode_plain(CAPTION.text)[1]
    for number, (start, end) in enumerate(CAPTION.spans):
        start += len(CAPTION.text[start:end]) - len(CAPTION.text[start:end].lstrip())
        inside = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
        rows = slice(len(prefix) + inside[0], len(prefix) + inside[-1] + 1)
        assert_seen(many, len(PHRASES) + number, rows, prefix, attentions, hidden_states)
    # Phrases do not see each other, in whatever company and order.
    turned = vlm.attend(prefix, [CAPTION, *reversed(PHRASES)])
    for other, index in ((many, 0), (turned, -1)):
        assert relative_difference(other.maps[index], one.maps[0]) < 1e-5
        assert relative_difference(other.text_features[index], one.text_features[0]) < 1e-5


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_several_pictures_in_one_pass_are_each_read_as_alone(vlm, noise, padding_side, monkeypatch):
    monkeypatch.setattr(vlm, "padding_side", padding_side)
    monkeypatch.setattr(vlm, "max_batch_padding", 1.0)
    images = [noise(*SIZES[name]) for name in ("wide", "square", "tiny")]
    asked = [PHRASES, [CAPTION], PHRASES[:1]]
    prefixes = vlm.prefill(images, "Where are they?")
    assert len({id(prefix.batch) for prefix in prefixes}) == 1
    alone = [vlm.prefill(image, "Where are they?") for image in images]
    for prefix, own, seen, phrases in zip(prefixes, alone, vlm.attend(prefixes, asked), asked):
        assert prefix.input_ids.equal(own.input_ids) and prefix.next_position == own.next_position
        assert relative_difference(prefix.last_hidden_state, own.last_hidden_state) < 1e-5
        assert_same(seen, vlm.attend(own, phrases))
    assert vlm.generate(prefixes[0], 6) == vlm.generate(alone[0], 6)


def test_answers_equal_transformers_own(vlm, eager, noise):
    image = noise(100, 140)
    prefix = vlm.prefill(image)
    before = vlm.attend(prefix, PHRASES[:2])
    answer = vlm.generate(prefix, max_new_tokens=12)
    inputs = eager.prepare([ask(vlm.default_prompt)], [image])
    assert inputs["input_ids"][0].tolist() == prefix.input_ids.tolist()
    ids = eager.generate(inputs, 12)
    assert answer and answer == vlm.tokenizer.decode(ids, skip_special_tokens=True)
    answers = vlm.answer(prefix, QUESTIONS, max_new_tokens=8)
    for question, own in zip(QUESTIONS, answers):
        ids = eager.generate(eager.prepare([ask(question)], [image]), 8)
        assert own == vlm.tokenizer.decode(ids, skip_special_tokens=True)
    assert_same(vlm.attend(prefix, PHRASES[:2]), before)  # the prefix serves again
    assert vlm.attend(prefix, [Continuation(f"Said {answer}")]).maps.isfinite().all()


def test_a_conversation_of_three_turns_equals_one_eager_pass(vlm, eager, noise):
    """About two pictures, where the family reads as many."""
    images = [noise(100, 140), noise(120, 70)][: vlm.family.max_pictures]
    if not vlm.family.converses:
        with pytest.raises(ValueError, match="holds no conversation, each question is a reading"):
            vlm.converse(images[0])
        return
    dialogue = vlm.converse(images[0])
    messages = []
    for question, answer in zip(QUESTIONS, [*ANSWERS, None]):
        shown = images[1:] if len(messages) == 2 else []
        dialogue.ask(question, [vlm.image_processor.encode(image) for image in shown])
        messages.append(ask(question, len(shown) + (not messages)))
        if answer:
            dialogue.begin(answer)
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    if len(images) == vlm.family.max_pictures:
        with pytest.raises(ValueError, match=f"reads {len(images)} picture in a conversation"):
            dialogue.ask("And this?", [vlm.image_processor.encode(images[0])])
    inputs = eager.prepare(messages, images)
    assert inputs["input_ids"][0].tolist() == dialogue.input_ids
    expected = eager.generate(inputs, 6)
    written = list(dialogue.write(max_new_tokens=6))
    stop = vlm.model.generation_config.eos_token_id
    stops = stop if isinstance(stop, list) else [stop]
    assert written == [index for index in expected if index not in stops] and written
    _, attentions, hidden_states = eager.see(eager.go_on(inputs, written))
    spans = [turn.answer for turn in dialogue.turns]
    for seen, image in zip(dialogue.look(spans), dialogue.images, strict=True):
        for number, span in enumerate(spans):
            rows = attentions[:, slice(*span)].mean(1)
            for maps, grid in zip(seen.grid_maps, image.image_input.grids, strict=True):
                expected_map = rows[:, grid.columns + image.columns.start]
                assert (maps[number] - expected_map).norm() <= 1e-5 * rows.norm()
            features = hidden_states[:, slice(*span)]
            assert relative_difference(seen.text_features[number], features) < 1e-5


def test_the_first_layers_alone_tell_what_a_full_reading_begins_with(vlm, noise):
    images = [noise(*SIZES[name]) for name in ("square", "tiny")]
    whole = vlm.prefill(images)
    decoder = vlm.model.get_decoder()
    stack, norm = decoder.layers, getattr(decoder, "norm", None) or decoder.final_layernorm
    asked = [[*PHRASES, CAPTION], PHRASES[:2]]
    full = vlm.attend(whole, asked)
    ran = []
    modules = [*stack, norm, vlm.model.get_output_embeddings()]
    hooks = [
        module.register_forward_pre_hook(lambda *_, place=place: ran.append(place))
        for place, module in enumerate(modules)
    ]
    for layers in (1, vlm.num_layers - 1):
        ran.clear()
        short = vlm.prefill(images, layers=layers)
        seen = vlm.attend(short, asked)
        last = vlm.attention_layers[layers - 1]
        assert set(ran) == set(range(last + 1))  # no later one, no norm, no head
        assert [prefix.layers for prefix in short] == [layers] * 2
        for got, expected in zip(seen, full):
            expected = expected.keep_layers(layers, vlm.num_heads)
            assert got.maps.shape[1] == layers * vlm.num_heads
            assert all(states is None for states in got.hidden_states)
            for own, wanted in zip(
                [*got.grid_maps, *got.text_features],
                [*expected.grid_maps, *expected.text_features],
                strict=True,
            ):
                assert own.shape == wanted.shape and relative_difference(own, wanted) < 1e-6
    for hook in hooks:
        hook.remove()
    assert whole[0].layers == vlm.num_layers
    # An answer reads again.
    assert vlm.generate(short[1], 5) == vlm.generate(whole[1], 5)
    questions = QUESTIONS[:1]
    assert vlm.answer(short[1], questions, 5) == vlm.answer(whole[1], questions, 5)
    if not vlm.family.converses:
        return
    dialogues = [vlm.converse(prefix) for prefix in (short[1], whole[1])]
    turns = [dialogue.ask(QUESTIONS[2]) for dialogue in dialogues]
    looks = [dialogue.look([turn.question]) for dialogue, turn in zip(dialogues, turns)]
    assert_same(looks[0][0], looks[1][0])


def test_sliding_windows_are_seen_through_as_in_one_eager_pass(data_dir, noise):
    """Windows shorter than the picture, in some layers alone."""
    windows = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 2}
    processor = load_processor(data_dir, "internvl")
    vlm = FrozenVLM.from_model(build_small_model(data_dir, "internvl", **windows), processor)
    assert set(vlm.text_config.layer_types) == {"full_attention", "sliding_attention"}
    model = build_small_model(data_dir, "internvl", **windows)
    model.set_attn_implementation("eager")
    eager = EagerReference(model, processor)
    image = noise(150, 150)
    prefix = vlm.prefill(image)
    seen = vlm.attend(prefix, PHRASES)
    for number, phrase in enumerate(PHRASES):
        ids, attentions, hidden_states = eager.read(image, vlm.default_prompt, phrase)
        rows = slice(len(prefix), len(ids))
        columns = attentions[:, rows].mean(1)
        for maps, grid in zip(seen.grid_maps, prefix.grids, strict=True):
            assert relative_difference(maps[number], columns[:, grid.columns]) < 1e-5
        assert relative_difference(seen.text_features[number], hidden_states[:, rows]) < 1e-5
    answers = vlm.answer(prefix, QUESTIONS[:2], max_new_tokens=6)
    for question, own in zip(QUESTIONS, answers):
        ids = eager.generate(eager.prepare([ask(question)], [image]), 6)
        assert own == vlm.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    "kinds, message",
    [
        (["mamba", "full_attention"], "this qwen2 has layers of the kind 'mamba', which flmm does"),
        (["full_attention", "linear_attention"], "the last layer of this qwen2 has no attention"),
    ],
)
def test_layers_that_are_not_read_exactly_are_refused(data_dir, kinds, message):
    model = build_small_model(data_dir, "internvl", layer_types=["full_attention"] * 4)
    model.config.text_config.layer_types = kinds * 2
    with pytest.raises(ValueError, match=message):
        FrozenVLM.from_model(model, load_processor(data_dir, "internvl"))
