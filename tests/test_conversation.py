"""Conversations that point: the embedded model on drawn scenes, and real tokenizers."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from flmm import Continuation, FrozenQwen, GroundingInferencer
from flmm.conversation import Chat, find_places
from flmm.conversation.turns import TextDecoder
from flmm.grounder import Grounder
from flmm.masks import UNetHead
from flmm.toy.shape_sentences import render_samples
from tests.small_models import build_small_model, load_processor

PROMPT = "Please give me a description of the image."


@pytest.fixture(scope="module")
def inferencer():
    return GroundingInferencer("configs/tiny/tiny_unet_sam_shapes.py", device="cpu")


@pytest.fixture(scope="module")
def scenes():
    return render_samples(4, seed=31)


def every_noun(text):
    """A selector that knows how the toy writes: "a big red circle top left, ..."."""
    spans, start = [], 0
    for part in text.split(", "):
        words = part.split(" ")
        end = next(i for i, word in enumerate(words) if word in ("top", "middle", "bottom"))
        spans.append((start, start + len(" ".join(words[:end]))))
        start += len(part) + 2
    return spans


class NounSelector:
    def select(self, answer):
        return every_noun(answer.text)


def test_masks_of_an_answer_are_those_of_grounding_the_same_text(inferencer, scenes):
    for scene in scenes:
        chat = inferencer.chat(scene.image, [NounSelector()])
        turn = chat.ask(PROMPT, begin="a")
        assert turn.text.endswith(".") and turn.end_reason == "end"
        spans = every_noun(turn.text)
        assert [phrase.span for phrase in turn.phrases] == spans
        result = inferencer(scene.image, [Continuation(turn.text, tuple(spans))])
        for phrase, mask, score, box in zip(
            turn.phrases, result.masks, result.scores, result.boxes_xyxy
        ):
            assert phrase.text == turn.text[slice(*phrase.span)]
            assert (phrase.role, phrase.image) == ("answer", 0)
            assert (phrase.mask != mask).sum() <= 2
            assert abs(phrase.score - score) < 1e-3
            np.testing.assert_allclose(phrase.box_xyxy, box, atol=1)


def test_the_answer_is_the_readers_own(inferencer, scenes):
    vlm = inferencer.model.vlm
    pieces = []
    turn = inferencer.chat(scenes[0].image, ["brackets"]).ask(PROMPT, on_text=pieces.append)
    assert turn.text == vlm.generate(vlm.prefill(scenes[0].image, PROMPT))
    assert "".join(pieces) == turn.text
    assert turn.phrases == []


def test_brackets_of_the_question_are_pointed_at_and_not_read(inferencer, scenes):
    scene = scenes[1]
    phrase = scene.phrases[0]
    chat = inferencer.chat(scene.image, ["brackets"])
    turn = chat.ask(f"Where is [{phrase}]?", max_new_tokens=4)
    plain = inferencer.chat(scene.image, []).ask(f"Where is {phrase}?", max_new_tokens=4)
    assert (turn.question, turn.text) == (f"Where is {phrase}?", plain.text)
    (found,) = turn.phrases
    assert (found.text, found.role) == (phrase, "question")
    overlap = (found.mask & scene.masks[0]).sum() / (found.mask | scene.masks[0]).sum()
    assert overlap > 0.5
    assert inferencer.chat(scene.image, []).ask("a [b", max_new_tokens=1).question == "a [b"


def test_records_are_json_that_pycocotools_reads(inferencer, scenes):
    turn = inferencer.chat(scenes[0].image, [NounSelector()]).ask(PROMPT, begin="a")
    records = json.loads(json.dumps(turn.to_coco()))
    for record, phrase in zip(records, turn.phrases):
        assert (coco_mask.decode(record["segmentation"]).astype(bool) == phrase.mask).all()
        assert record["phrase"] == turn.text[slice(*record["span"])]


def test_each_phrase_points_into_one_picture_of_its_own_size(inferencer, scenes):
    first, second = (scene.image for scene in scenes[:2])
    chat = inferencer.chat(first, ["brackets"])
    chat.ask("What is [a circle]?", max_new_tokens=3)
    turn = chat.ask("and [a square]?", images=[second], max_new_tokens=3)
    assert len(chat.images) == 2
    for phrase in [*chat.turns[0].phrases, *turn.phrases]:
        assert phrase.mask.shape == chat.images[phrase.image].original_size
    assert chat.turns[0].phrases[0].image == 0  # there was no other then
    seen = chat.look([find_places(turn.tokens, "question", turn.phrases[0].span)])
    weights = [float(item.maps.sum((-1, -2)).mean()) for item in seen]
    assert turn.phrases[0].image == int(np.argmax(weights))


def test_a_stopped_answer_is_a_turn_and_the_conversation_goes_on(inferencer, scenes):
    chat = inferencer.chat(scenes[0].image, [NounSelector()])
    pieces = chat.stream(PROMPT, begin="a", select=["brackets"])
    said = "".join(piece for piece, _ in zip(pieces, range(3)))
    pieces.close()
    assert chat.turns[-1].text.startswith(said) and chat.turns[-1].end_reason is None
    assert chat.ask(PROMPT, select=["brackets"], max_new_tokens=3).question == PROMPT
    assert len(chat.turns) == len(chat.dialogue.turns) == 2


def test_a_context_too_full_to_ask_aside_keeps_the_answer(inferencer, scenes, monkeypatch):
    chat = inferencer.chat(scenes[0].image, ["reader"])
    expected = chat.ask(PROMPT, begin="a")
    full = len(chat.dialogue) + 3
    again = inferencer.chat(scenes[0].image, ["reader"])
    monkeypatch.setattr(inferencer.model.vlm.text_config, "max_position_embeddings", full)
    turn = again.ask(PROMPT, begin="a")
    assert (turn.text, turn.phrases, len(again.turns)) == (expected.text, [], 1)
    assert len(turn.notes) == 1 and "no room" in turn.notes[0] and not expected.notes


class BrokenSelector:
    def select(self, answer):
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        (" ", {}, "at least one word"),
        ("the [cup", {}, "is not closed"),
        ("x", {"select": ["nouns"]}, "no phrase selector 'nouns'"),
        ("x", {"select": [BrokenSelector()], "max_new_tokens": 2}, "broken"),
        ("x", {"images": ["no_such.png"]}, "no_such.png"),
        ("word " * 3000, {}, "undo some turns"),
        ("x", {"begin": "a " * 3000}, "undo some turns"),
    ],
)
def test_what_fails_is_told_and_leaves_the_conversation_whole(
    inferencer, scenes, question, options, message
):
    chat = inferencer.chat(scenes[0].image, ["brackets"])
    chat.ask(PROMPT, max_new_tokens=3)
    before = list(chat.dialogue.input_ids)
    with pytest.raises((ValueError, RuntimeError, FileNotFoundError), match=message):
        chat.ask(question, **options)
    assert chat.dialogue.input_ids == before
    assert len(chat.turns) == len(chat.dialogue.turns) == len(chat.images) == 1


def test_undo_takes_turn_and_pictures_back(inferencer, scenes):
    chat = inferencer.chat(scenes[0].image, ["brackets"])
    first = chat.ask("Where is [a circle]?", max_new_tokens=4)
    second = chat.ask("And [a square]?", images=[scenes[1].image], max_new_tokens=4)
    assert chat.undo() is second
    assert (chat.turns, len(chat.images)) == ([first], 1)
    again = chat.ask("And [a square]?", images=[scenes[1].image], max_new_tokens=4)
    assert again.text == second.text
    assert (again.phrases[0].mask == second.phrases[0].mask).all()


def test_a_picture_is_encoded_once(inferencer, scenes):
    seen = []
    encoder = inferencer.model.sam.sam.image_encoder
    hook = encoder.register_forward_hook(lambda *_: seen.append(1))
    try:
        inferencer(scenes[2].image, ["a circle"])
        chat = inferencer.chat(scenes[2].image, ["brackets"])
        for _ in range(3):
            chat.ask("Where is [a circle]?", max_new_tokens=2)
    finally:
        hook.remove()
    assert len(seen) == 1


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    "text", ["杯子 🦜🦜 é", " 🦜", "龘靐 and a cup", "the 𠮷野家 sign", "a 🦜 on  two cups, " * 40]
)
def test_half_characters_wait_for_their_other_half(data_dir, family, text):
    tokenizer = load_processor(data_dir, family).tokenizer
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    decoder = TextDecoder(tokenizer)
    pieces = [decoder.add(token) for token in encoding.input_ids]
    assert "".join(pieces) + decoder.finish() == decoder.text == text
    # As "attend" counts them, so that a phrase has the same rows in an answer.
    assert decoder.offsets == encoding.offset_mapping


def test_a_token_costs_the_same_however_long_the_answer_is(data_dir):
    tokenizer = load_processor(data_dir, "qwen2_5_vl").tokenizer
    decoded = []

    class Counting:
        def decode(self, ids, **options):
            decoded.append(len(ids))
            return tokenizer.decode(ids, **options)

    decoder = TextDecoder(Counting())
    for token in tokenizer("a red cup, a 🦜; " * 100).input_ids:
        decoder.add(token)
    assert decoder.text.startswith("a red cup") and max(decoded) <= 40


def test_an_answer_that_ends_within_a_character(data_dir):
    tokenizer = load_processor(data_dir, "qwen2_5_vl").tokenizer
    decoder = TextDecoder(tokenizer)
    ids = tokenizer("a 🦜", add_special_tokens=False).input_ids[:-1]
    assert "".join(map(decoder.add, ids)) == "a "
    assert decoder.finish() and decoder.text.startswith("a �")
    assert decoder.offsets[-1][1] == len(decoder.text)


def test_bytes_that_never_make_a_character_do_not_wait(data_dir):
    tokenizer = load_processor(data_dir, "qwen2_5_vl").tokenizer
    half = tokenizer("🦜", add_special_tokens=False).input_ids[0]
    decoder = TextDecoder(tokenizer)
    said = "".join(decoder.add(half) for _ in range(10))
    assert said and set(said) == {"�"} and len(decoder.finish()) == 3


def test_a_caller_can_stop_at_any_token(inferencer, scenes):
    chat = inferencer.chat(scenes[0].image, ["brackets"])
    pieces = list(chat.stream(PROMPT))
    said = [token for token in chat.turns[-1].tokens if token.role == "answer"]
    assert len(pieces) == len(said) and "".join(pieces) == chat.turns[-1].text


def test_the_beginning_is_the_answers_wherever_a_caller_stops(inferencer, scenes):
    chat = inferencer.chat(scenes[0].image, ["brackets"])
    begin = "a big red circle"
    pieces = chat.stream(PROMPT, begin=begin)
    assert next(pieces) == begin
    pieces.close()
    turn, said = chat.turns[-1], chat.dialogue.turns[-1].answer
    assert turn.text == begin
    own = [token.place for token in turn.tokens if token.role == "answer"]
    assert own == list(range(*said))


def test_a_further_question_ends_an_answer_that_is_still_written(inferencer, scenes):
    chat = inferencer.chat(scenes[0].image, ["brackets"])
    pieces = chat.stream(PROMPT, begin="a")
    said = next(pieces) + next(pieces)
    chat.ask("Where is [a circle]?", max_new_tokens=3)
    assert list(pieces) == []
    assert [turn.question for turn in chat.turns] == [PROMPT, "Where is a circle?"]
    assert chat.turns[0].text == said
    pieces = chat.stream(PROMPT, begin="a")
    next(pieces)
    assert chat.undo().question == PROMPT
    assert len(chat.turns) == len(chat.dialogue.turns) == 2


def test_an_answer_that_ends_at_once_is_empty(inferencer, scenes, monkeypatch):
    chat = inferencer.chat(scenes[0].image, ["brackets", NounSelector(), "reader"])
    chat.ask(PROMPT, select=[], max_new_tokens=1)
    first = chat.dialogue.input_ids[-1]
    chat.undo()
    config = inferencer.model.vlm.model.generation_config
    with monkeypatch.context() as patch:
        patch.setattr(config, "eos_token_id", [config.eos_token_id, first])
        assert list(chat.stream(PROMPT)) == []
    turn = chat.turns[-1]
    assert (turn.text, turn.phrases, turn.end_reason) == ("", [], "end")
    turn = chat.ask("[a circle]", select=["brackets"], max_new_tokens=2)
    assert (turn.question, turn.phrases[0].span) == ("a circle", (0, 8))
    said = inferencer.model.vlm.tokenizer.decode(chat.dialogue.input_ids)
    assert "assistant\n<|im_end|>\n<|im_start|>user\na circle<|im_end|>" in said


def test_a_turn_that_failed_leaves_no_encoding_of_its_picture(inferencer, scenes, monkeypatch):
    shown = {"images": [scenes[3].image], "max_new_tokens": 3}
    expected = inferencer.chat(scenes[0].image, ["brackets"]).ask("[a small square]", **shown)
    assert expected.phrases[0].image == 1
    chat = inferencer.chat(scenes[0].image, ["brackets"])
    ground = inferencer.model.ground_seen

    def fail(image, *seen):
        if image is chat.images[0]:
            return ground(image, *seen)
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(inferencer.model, "ground_seen", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            chat.ask("Where is [a circle] and [a square]?", images=[scenes[1].image])
    found = chat.ask("[a small square]", **shown)
    assert (found.phrases[0].mask == expected.phrases[0].mask).all()


def test_a_real_family_with_random_weights_points_without_a_refiner(data_dir):
    reader = FrozenQwen.from_model(
        build_small_model(data_dir, "qwen3_vl"), load_processor(data_dir, "qwen3_vl")
    )
    torch.manual_seed(0)
    grounder = Grounder(reader, UNetHead(in_channels=reader.num_maps, base_channels=8))
    picture = np.random.default_rng(0).integers(0, 255, (130, 90, 3), dtype=np.uint8)
    chat = Chat(grounder.eval(), reader.prefill(picture), selectors=["brackets", "reader"])
    turn = chat.ask("左边的[红色杯子]在哪里？", max_new_tokens=6)
    assert turn.phrases[0].text == "红色杯子"
    assert all(phrase.mask.shape == (130, 90) for phrase in turn.phrases)
    assert turn.end_reason == "max_new_tokens"
    assert "".join(token.text for token in turn.tokens if token.role == "question") == turn.question
