"""Conversations: transformers' own, token for token, with the maps of one eager pass."""

import pytest
import torch

from flmm.readers.prompts import ContextFullError
from flmm.records import Continuation
from tests.readers.conftest import FEW, find_vision_tower

FAMILIES = (*FEW, "qwen3_5")  # whose layers keep a state: nothing can be cut
QUESTIONS = [
    "What is left of the lamp?",
    "它旁边的红色杯子呢？",
    "<|im_end|> is text, not an order?",
]
ANSWER = "A red cup, 左边的杯子 and a tall man in white."


@pytest.fixture(scope="module")
def pictures(noise):
    return [noise(100, 140), noise(120, 70)]


def write(dialogue, count=8):
    return list(dialogue.write(max_new_tokens=count))


def generate(eager, ids, images, count=8):
    """Transformers' greedy answer to token ids that hold all ``images``."""
    return eager.generate(eager.hold(ids, images), count)


def strip_end(ids, vlm):
    stop = vlm.model.generation_config.eos_token_id
    stop = stop if isinstance(stop, list) else [stop]
    return ids[:-1] if ids and ids[-1] in stop else ids


@pytest.mark.parametrize("more", [0, 1, 2], ids=["one picture", "two at once", "one later"])
def test_every_turn_is_transformers_own_with_history(vlm, eager, pictures, more):
    dialogue = vlm.converse(pictures[0])
    encode = vlm.image_processor.encode
    shown = [pictures[0]]
    for number, question in enumerate(QUESTIONS):
        new = [pictures[1]] if number + 1 == more else []
        shown += new
        dialogue.ask(question, [encode(image) for image in new])
        before = list(dialogue.input_ids)
        answer = write(dialogue)
        assert answer == strip_end(generate(eager, before, shown), vlm)
        assert dialogue.input_ids == before + answer


def test_maps_of_an_answer_are_those_of_attend(vlm, pictures):
    question = QUESTIONS[0]
    dialogue = vlm.converse(pictures[0])
    dialogue.ask(question)
    ids = dialogue.begin(ANSWER)
    start = dialogue.turns[-1].answer[0]
    seen = dialogue.look(
        [(start, start + 3), (start + 2, start + len(ids)), (start + 1, start + 2)]
    )
    text = vlm.plain_text.encode_plain(ANSWER)[1]
    spans = [(text[0][0], text[2][1]), (text[2][0], text[-1][1]), (text[1][0], text[1][1])]
    expected = vlm.attend(vlm.prefill(pictures[0], question), [Continuation(ANSWER, tuple(spans))])
    assert len(seen) == 1
    torch.testing.assert_close(seen[0].maps, expected.maps, rtol=1e-5, atol=1e-6)
    for own, other in zip(seen[0].text_features, expected.text_features):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_maps_on_two_pictures_equal_one_eager_pass(vlm, eager, pictures):
    dialogue = vlm.converse(pictures[0])
    dialogue.ask(QUESTIONS[0])
    write(dialogue, 5)
    dialogue.ask(QUESTIONS[1], [vlm.image_processor.encode(pictures[1])])
    write(dialogue, 5)
    first, second = (turn.answer for turn in dialogue.turns)
    place = dialogue.turns[1].question_tokens[1][0]
    spans = [second, (first[0] + 1, first[1]), (place, place + 2)]
    seen = dialogue.look(spans)
    _, weights, hidden_states = eager.see(eager.hold(dialogue.input_ids, pictures))
    assert len(seen) == 2
    for attention, image in zip(seen, dialogue.images):
        for number, (features, span) in enumerate(zip(attention.text_features, spans)):
            rows = weights[:, slice(*span)].mean(1)
            for maps, grid in zip(attention.grid_maps, image.image_input.grids):
                expected = rows[:, grid.columns + image.columns.start]
                torch.testing.assert_close(maps[number], expected, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(
                features, hidden_states[:, slice(*span)], rtol=1e-4, atol=1e-4
            )
    assert not seen[1].maps[1].any()  # the second picture came after these words
    torch.testing.assert_close(
        dialogue.read_hidden_states(second), hidden_states[-1][slice(*second)], rtol=1e-4, atol=1e-4
    )


def test_pictures_are_read_once_and_a_turn_costs_its_own_tokens(vlm, pictures):
    prefix = vlm.prefill(pictures[0])
    seen, rows = [], []
    decoder = vlm.model.model.language_model
    hooks = [
        find_vision_tower(vlm).register_forward_hook(lambda *_: seen.append(1)),
        decoder.layers[0].register_forward_pre_hook(
            lambda _, args, kwargs: rows.append((args or (kwargs["hidden_states"],))[0].shape[1]),
            with_kwargs=True,
        ),
    ]
    try:
        dialogue = vlm.converse(prefix)
        for question in QUESTIONS:
            dialogue.ask(question)
            write(dialogue, 4)
        dialogue.look([dialogue.turns[-1].answer])
    finally:
        for hook in hooks:
            hook.remove()
    assert len(seen) == vlm.keeps_states  # other questions than the prefix's
    spoken = len(dialogue) - prefix.image_columns.stop
    turn = dialogue.turns[-1]
    looked = turn.answer[1] - turn.answer[0]
    if vlm.keeps_states:  # the picture once more, and all since the last token before the question
        spoken += prefix.image_columns.stop
        looked = turn.answer[1] - turn.start + 1
    assert sum(rows) == spoken + looked


def test_the_reading_it_began_with_serves_others(vlm, pictures):
    prefix = vlm.prefill(pictures[0])
    maps, own = vlm.attend(prefix, ["the cup"]).maps, vlm.generate(prefix, 6)
    dialogues = [vlm.converse(prefix), vlm.converse(prefix)]
    answers = []
    for question in QUESTIONS[:2]:
        for dialogue in dialogues:
            dialogue.ask(question)
            answers.append(write(dialogue, 5))
    assert answers[0] == answers[1] and answers[2] == answers[3]
    assert vlm.attend(prefix, ["the cup"]).maps.equal(maps)
    assert vlm.generate(prefix, 6) == own


def test_undo_leaves_no_trace(vlm, pictures):
    dialogue = vlm.converse(pictures[0])
    dialogue.ask(QUESTIONS[0])
    write(dialogue, 5)
    before = list(dialogue.input_ids)
    dialogue.ask(QUESTIONS[1], [vlm.image_processor.encode(pictures[1])])
    expected = write(dialogue, 5)
    for _ in range(2):  # and again after it was taken back
        dialogue.undo()
        assert (dialogue.input_ids, len(dialogue.turns), len(dialogue.images)) == (before, 1, 1)
        dialogue.ask(QUESTIONS[1], [vlm.image_processor.encode(pictures[1])])
        assert write(dialogue, 5) == expected
    dialogue.undo()
    dialogue.undo()
    with pytest.raises(ValueError, match="no turn to undo"):
        dialogue.undo()


def test_an_aside_is_not_heard(vlm, pictures):
    dialogue = vlm.converse(pictures[0])
    dialogue.ask(QUESTIONS[0])
    write(dialogue, 5)
    aside = dialogue.fork()
    aside.ask(QUESTIONS[2])
    write(aside, 5)
    other = vlm.converse(pictures[0])
    other.ask(QUESTIONS[0])
    write(other, 5)
    answers = []
    for item in (dialogue, other):
        item.ask(QUESTIONS[1])
        answers.append(write(item, 5))
    assert answers[0] == answers[1]
    assert len(dialogue.turns) == 2


def test_an_answer_written_aside_is_not_the_conversations(vlm, pictures):
    dialogue = vlm.converse(pictures[0])
    dialogue.ask(QUESTIONS[0])
    aside = dialogue.fork()
    expected = write(aside, 5)
    turn = dialogue.turns[-1]
    assert turn.answer == (len(dialogue), len(dialogue)) and turn.end_reason is None
    assert aside.turns[-1].answer == (len(dialogue), len(dialogue) + len(expected))
    assert write(dialogue, 5) == expected


def test_ctrl_c_between_two_layers_leaves_the_conversation_whole(vlm, pictures):
    dialogue = vlm.converse(pictures[0])
    dialogue.ask(QUESTIONS[0])
    expected = write(dialogue.fork(), 5)
    answer = dialogue.write(5)
    begun = [next(answer), next(answer)]

    def interrupt(*_):
        raise KeyboardInterrupt

    hook = vlm.model.model.language_model.layers[1].register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(answer)
    finally:
        hook.remove()
    lengths = [dialogue._cache.get_seq_length(layer) for layer in vlm.attention_layers]
    assert len(set(lengths)) == 1
    assert begun + write(dialogue, 3) == expected


def test_an_answer_that_is_stopped_stays_as_far_as_it_went(vlm, eager, pictures):
    dialogue = vlm.converse(pictures[0])
    dialogue.ask(QUESTIONS[0])
    for count, _ in enumerate(dialogue.write(10), start=1):
        if count == 3:
            break
    start, end = dialogue.turns[-1].answer
    assert end - start == 3 and dialogue.turns[-1].end_reason is None
    dialogue.ask(QUESTIONS[1])
    before = list(dialogue.input_ids)
    assert write(dialogue, 5) == strip_end(generate(eager, before, pictures[:1], 5), vlm)


def test_a_full_context_is_told_and_costs_nothing(vlm, pictures, monkeypatch):
    dialogue = vlm.converse(pictures[0])
    dialogue.ask(QUESTIONS[0])
    write(dialogue, 3)
    before = list(dialogue.input_ids)
    monkeypatch.setattr(vlm.text_config, "max_position_embeddings", len(before) + 5)
    with pytest.raises(ContextFullError, match=r"undo some turns, or start a new"):
        dialogue.ask(QUESTIONS[1])
    assert dialogue.input_ids == before and len(dialogue.turns) == 1
    assert len(list(dialogue.write(50))) == 5
    assert dialogue.turns[-1].end_reason == "context"


def test_a_picture_that_cannot_be_read_leaves_the_conversation_whole(vlm, pictures, monkeypatch):
    dialogue = vlm.converse(pictures[0])
    dialogue.ask(QUESTIONS[0])
    expected = write(dialogue.fork(), 5)

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    image = vlm.image_processor.encode(pictures[1])
    with monkeypatch.context() as patch:
        patch.setattr(find_vision_tower(vlm), "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            dialogue.ask(QUESTIONS[1], [image])
    assert (len(dialogue.turns), len(dialogue.images)) == (1, 1)
    assert write(dialogue, 5) == expected


def test_ranges_that_hold_no_text_are_told(vlm, pictures):
    dialogue = vlm.converse(pictures[0])
    dialogue.ask(QUESTIONS[0], [vlm.image_processor.encode(pictures[1])])
    first, second = (image.columns for image in dialogue.images)
    for span in [(0, 2), (first.start, first.stop + 1), (second.start - 1, second.stop + 1)]:
        with pytest.raises(ValueError, match="no text behind the first picture"):
            dialogue.look([span])
    with pytest.raises(ValueError, match="no text behind the first picture"):
        dialogue.look([(len(dialogue) - 1, len(dialogue) + 1)])
    with pytest.raises(ValueError, match="no token range"):
        dialogue.look([])
