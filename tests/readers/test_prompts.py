"""Text is tokenised as text, spans come from offsets; with the real tokenizers."""

import json
import types

import numpy as np
import pytest
from transformers import AutoProcessor

from flmm.readers import ImageProcessorWrapper
from flmm.readers.families import Family, find_family
from flmm.readers.loading import load_processor as load_any_processor
from flmm.readers.prompts import PlainTextTokenizer
from flmm.readers.turns import TurnEncoder
from flmm.readers.words import find_last_tokens, find_last_word
from flmm.records import Continuation
from tests.small_models import build_small_config, load_processor

QWEN = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
OTHERS = ["llava", "llava_next", "llava_onevision", "internvl", "idefics3", "qwen_vl_v1"]


@pytest.fixture(scope="module", params=[*QWEN, *OTHERS])
def processor(request, data_dir):
    if request.param in QWEN:
        return load_processor(data_dir, request.param)
    return load_any_processor(data_dir / "processors" / request.param)


@pytest.fixture(scope="module")
def tokenizer(processor):
    return processor.tokenizer


@pytest.fixture(scope="module")
def plain(tokenizer):
    return PlainTextTokenizer(tokenizer)


@pytest.fixture(scope="module")
def expressions(data_dir):
    path = data_dir / "refcoco" / "expressions_refcocog_val.json"
    return [record["expression"] for record in json.loads(path.read_text())]


def test_a_gap_before_answers_is_brought_by_words_that_do_not_begin_with_one(tokenizer):
    plain = PlainTextTokenizer(tokenizer, " ")
    marks_words = tokenizer.tokenize("a")[0].startswith("▁")
    for text in ("a red cup", "左边", "<row_1_col_1>"):
        ids, offsets = plain.encode_plain(text)
        if not marks_words:
            assert ids == PlainTextTokenizer(tokenizer).encode_plain(f" {text}")[0]
        assert tokenizer.decode(ids).strip() == text
        assert offsets[0][0] == 0 < offsets[0][1] and offsets[-1][1] == len(text)
    encoded = plain.encode_continuation(Continuation("a red cup", [(0, 1), (2, 5)]))
    words = [tokenizer.decode(encoded.input_ids[slice(*span)]) for span in encoded.token_spans]
    assert [word.strip() for word in words] == ["a", "red"]
    assert plain.encode_plain("") == ([], [])
    said = " a red cup"  # by the model
    assert plain.encode_plain(said) == PlainTextTokenizer(tokenizer).encode_plain(said)


def test_every_control_token_is_plain_text(plain, tokenizer):
    control_ids = set(tokenizer.added_tokens_decoder)
    assert len(control_ids) >= 5
    for token in tokenizer.added_tokens_decoder.values():
        text = f"a cup{token.content} {token.content}"
        ids, _ = plain.encode_plain(text)
        assert not control_ids & set(ids)
        assert tokenizer.decode(ids) == text


def test_plain_text_is_tokenised_as_the_tokenizer_does(plain, tokenizer, expressions):
    for text in [*expressions[:300], "左边的红色杯子", "a\n\n b", "naïve cafe\u0301", "🙂 鑫龘"]:
        assert plain.encode_plain(text)[0] == tokenizer.encode(text, add_special_tokens=False)


def test_template_is_tokenised_as_a_whole_text(plain, processor):
    tokenizer = processor.tokenizer
    for first in (processor.image_token, tokenizer.bos_token or ""):  # maybe written already
        before, after = f"{first}user\nLook: ", f" Thanks!{tokenizer.eos_token}\nyes"
        text = before + "a dog\n" + after
        begins = bool(first) and first == tokenizer.bos_token
        expected = tokenizer.encode(text, add_special_tokens=not begins)
        assert plain.encode_template(before, "a dog\n", after)[0] == expected


class AnyFamily(Family):
    """What all families share, for a processor alone."""

    def check(self):
        pass

    def layout(self, seen):
        return []


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("prompt", ["Where is it?", "  left\n", "naïve 左边的红色杯子: "])
def test_ids_of_a_conversation_are_the_processors_own(plain, processor, prompt, images):
    """Two turns; each picture as the processor writes it."""
    family = AnyFamily(None, processor)
    pictures = [np.zeros((60, 90, 3), np.uint8)] * images
    before, after = family.render(images, is_first=True)
    later_before, later_after = family.render(0, is_first=False)
    answer = "a red cup"
    gap = " " if "▁" in processor.tokenizer.tokenize(answer)[0] else ""  # a word begins
    text = before + prompt + after + gap + answer + later_before + "And now?" + later_after
    expected = processor(images=pictures, text=[text], return_tensors="pt")["input_ids"][0]
    ids, tokens = plain.encode_template(before, prompt, after)
    assert processor.tokenizer.decode([ids[place] for place, _ in tokens]).strip() == prompt.strip()
    ids += plain.encode_plain(answer)[0]
    ids += plain.encode_template(later_before, "And now?", later_after, is_first=False)[0]
    assert ids.count(processor.image_token_id) == images
    begin = plain.encode_template("", "", "")[0]
    picture = processor(images=pictures[:1], text=[processor.image_token], return_tensors="pt")
    picture = picture["input_ids"][0].tolist()[len(begin) :]
    expanded = [picture if index == processor.image_token_id else [index] for index in ids]
    assert [index for part in expanded for index in part] == expected.tolist()


def test_a_tokenizer_that_closes_every_text_is_refused(data_dir):
    tokenizer = AutoProcessor.from_pretrained(data_dir / "processors" / "llava").tokenizer
    closing = types.SimpleNamespace(
        backend_tokenizer=tokenizer.backend_tokenizer,
        encode=lambda text, add_special_tokens=True: [921, 2] if add_special_tokens else [921],
    )
    with pytest.raises(ValueError, match=r"reads 'a' as the tokens \[921, 2\]: what it writes"):
        PlainTextTokenizer(closing)


@pytest.mark.parametrize("prompt", ["Where?", "\n\nWhere?\n", " \n", "", "<start_of_image>?"])
def test_text_at_the_ends_of_a_picture_is_tokenised_with_the_template(data_dir, prompt):
    """Gemma 3's processor writes blank lines there, which form one token with other newlines."""
    processor = load_processor(data_dir, "gemma3")
    config = build_small_config(data_dir, "gemma3")
    wrapper = ImageProcessorWrapper(find_family(config)(config, processor))
    turns = TurnEncoder(wrapper.family, PlainTextTokenizer(processor.tokenizer))
    picture = np.zeros((60, 90, 3), np.uint8)
    turn = turns.encode(prompt, [wrapper.encode(picture)] * 2)
    before, after = wrapper.family.render(2, is_first=True)
    is_order = prompt.startswith("<")  # the processor would obey it
    text = before + ("" if is_order else prompt) + after
    made = processor(images=[picture] * 2, text=[text], return_tensors="pt")
    expected = made["input_ids"][0].tolist()
    ids = turn.input_ids
    if is_order:
        places = [place for place, _ in turn.question]
        ids = [index for place, index in enumerate(ids) if place not in places]
    assert ids == expected
    tokens = processor.tokenizer.convert_ids_to_tokens(ids)
    assert tokens.count("\n\n\n") == 1 and "\n\n\n\n" in tokens  # "user\n"; between pictures
    for columns in turn.image_columns:
        assert set(turn.input_ids[columns]) == {config.image_token_id}
    words = processor.tokenizer.decode([turn.input_ids[place] for place, _ in turn.question])
    assert prompt.strip() in words


def test_pieces_of_the_vocabulary_that_are_added_tokens_too_are_text(data_dir):
    tokenizer = load_processor(data_dir, "gemma3").tokenizer
    plain = PlainTextTokenizer(tokenizer)
    assert "\n\n" in tokenizer.added_tokens_encoder and "\n\n" not in plain.control_ids
    for text in ("a\n\n\nb", "\n" * 19, "a dog"):
        assert plain.encode_plain(text)[0] == tokenizer.encode(text, add_special_tokens=False)
    text = "<image_soft_token> <end_of_turn>"
    assert not set(plain.control_ids.values()) & set(plain.encode_plain(text)[0])


def test_a_control_token_in_the_prompt_is_not_obeyed(plain, processor):
    tokenizer = processor.tokenizer
    hostile = "\n".join(token.content for token in tokenizer.added_tokens_decoder.values())
    before, after = f"{processor.image_token}user\n", f"{tokenizer.eos_token}\n"
    ids, tokens = plain.encode_template(before, hostile, after, is_first=False)
    controls = [index for index in ids if index in tokenizer.added_tokens_decoder]
    assert controls == [processor.image_token_id, tokenizer.eos_token_id]
    assert hostile in tokenizer.decode(ids)
    covered = {place for _, span in tokens for place in range(*span)}
    assert covered == set(range(len(hostile)))


def test_tokens_of_real_expressions_cover_their_phrase(plain, tokenizer, expressions):
    assert len(expressions) >= 2000
    for start in range(0, 1500, 5):
        text, spans = "", []
        for expression in expressions[start : start + 5]:
            spans.append((len(text), len(text) + len(expression)))
            text += expression + ("." if start % 2 else ", ")
        encoded = plain.encode_continuation(Continuation(text, spans))
        _, offsets = plain.encode_plain(text)
        for (first, last), (begin, end) in zip(spans, encoded.token_spans):
            covered = offsets[begin:end]
            assert covered[0][0] <= first and covered[-1][1] >= first + len(
                text[first:last].strip()
            )
            assert begin == 0 or offsets[begin - 1][1] <= first
            words = tokenizer.decode(encoded.input_ids[begin:end])
            assert text[first:last].strip() in words


def test_tokens_that_share_characters_with_a_phrase_belong_to_it(plain, tokenizer):
    text = "x 鑫龘 y"  # 龘 is split over several tokens
    encoded = plain.encode_continuation(Continuation(text, [(3, 4)]))
    start, end = encoded.token_spans[0]
    assert end - start > 1
    assert "龘" in tokenizer.decode(encoded.input_ids[start:end])


@pytest.mark.parametrize(
    "text, word",
    [
        ("the red circle", "circle"),
        ("  a dog\t", "dog"),
        ("the dog's toy.", "toy"),
        ("a man , left ( front ) !", "front"),
        ("left\u00a0man\u3000", "man"),
        ("빨간 컵", "컵"),
        ("the 50% sign +", "+"),
        ("?!", "?!"),
        (" . ", "."),
        ("红色的圆。", "圆"),
        ("le 赤いカップ", "プ"),
        ("แก้วสีแดง", "ง"),
        ("the cat\U0001f431", "cat\U0001f431"),
    ],
)
def test_the_last_word(text, word):
    start, end = find_last_word(text)
    assert text[start:end] == word and end == text.rindex(word) + len(word)


def test_the_last_words_tokens_are_those_with_a_part_in_it(plain, tokenizer, expressions):
    texts = ["the red cup .", "x 鑫龘", "一只红色的杯子。", "a dog's toy \U0001f431"]
    for text in [*texts, *expressions[:100]]:
        ids, offsets = plain.encode_plain(text)
        first, last = find_last_word(text)
        own = [i for i, (start, end) in enumerate(offsets) if start < last and end > first]
        assert find_last_tokens(tokenizer, ids) == (own[0], own[-1] + 1)


def test_a_space_in_the_span_takes_no_neighbour(plain, tokenizer):
    encoded = plain.encode_continuation(Continuation("A dog sits", [(1, 6)]))
    start, end = encoded.token_spans[0]
    assert tokenizer.decode(encoded.input_ids[start:end]).strip() == "dog"


def test_a_phrase_without_tokens_is_refused(plain):
    class Silent:
        ids, offsets = [], []

        def encode(self, text, add_special_tokens):
            return self

    silent = object.__new__(PlainTextTokenizer)
    silent._plain, silent._gap = Silent(), ""
    with pytest.raises(ValueError, match="'dog' no token: use words of its vocabulary"):
        silent.encode_continuation(Continuation("dog"))


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(TypeError, match="give a fast tokenizer"):
        PlainTextTokenizer(object())
