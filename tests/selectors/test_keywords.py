"""The trainable selector: words from tokens, and what is refused."""

import pytest
import torch
from transformers import AutoTokenizer

from flmm.registry import MODELS
from flmm.selectors import SELECTORS, KeywordSelector, NounChunkSelector, build_selector
from flmm.selectors.keywords import join_keywords


def build_selector_of_marks():
    """Its hidden states are ``[R, 1]``: positive where a token is a keyword."""
    selector = KeywordSelector(1)
    torch.nn.init.ones_(selector.linear.weight)
    return selector


@pytest.mark.parametrize(
    ("marked", "phrases"),
    [
        ("a [small red cup] and [a cup], it", ["small red cup", "a cup"]),
        ("the [blue squares] left of [it]", ["blue squares"]),
        ("[the image] shows [a dog] .", ["a dog"]),
        ("[cup, plate]", ["cup", "plate"]),  # a comma parts
        ("[cup][plate]s", ["cupplates"]),  # half a word does not
        ("[a cup]. [A cup]", ["a cup", "A cup"]),
        ("nothing here", []),
    ],
)
def test_runs_of_keywords_are_phrases(marked, phrases, build_answer):
    plain, states, inside = "", [], False
    for character in marked:
        inside = {"[": True, "]": False}.get(character, inside)
        if character not in "[]":
            plain += character
            states.append(1.0 if inside else -1.0)
    answer = build_answer(plain, states=torch.tensor(states)[:, None])
    object.__setattr__(answer, "tokens", [(i, i + 1) for i in range(len(plain))])
    spans = build_selector_of_marks().select(answer)
    assert [plain[slice(*span)] for span in spans] == phrases


@pytest.mark.parametrize(
    ("text", "likely", "phrases"),
    [
        # "skateboarder's" has one likely token among three.
        ("A skateboarder's T-shirt", (" skateboard", " T", "-shirt"), ["T-shirt"]),
        ("两只猫在红色沙发上", ("猫", "红色", "沙发上"), ["猫", "红色沙发上"]),
        ("my Café, a 🐱 cat", (" Café", " 🐱", "🐱", "🐱", " cat"), ["Café", "cat"]),
    ],
)
def test_words_are_whole_with_a_real_tokenizer(text, likely, phrases, data_dir):
    """A word is as likely as its tokens are in the mean; a character may be several tokens."""
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "qwen/Qwen2_5_VL")
    tokens = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    marks = [text[slice(*span)] in likely for span in tokens]
    assert sum(marks) == len(likely)
    spans = join_keywords(text, tokens, [0.9 if mark else 0.2 for mark in marks], 0.5)
    assert [text[slice(*span)] for span in spans] == phrases


def test_any_dtype_is_read_and_the_logits_are_float32():
    selector = build_selector_of_marks()
    states = torch.tensor([[1.0], [-2.0]])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        logits = selector(states.to(dtype))
        assert logits.dtype == torch.float32 and logits.tolist() == [1.0, -2.0]


def test_a_selector_that_never_learnt_refuses(build_answer):
    selector = KeywordSelector(4)
    grounder = torch.nn.Module()
    grounder.keyword_selector = selector
    for call in (
        lambda: selector.select(build_answer("a", states=torch.ones(1, 4))),
        lambda: build_selector("keywords", grounder),
    ):
        with pytest.raises(ValueError, match=r"was never trained: train it on captions .*'reader'"):
            call()
    grounder.keyword_selector = None
    with pytest.raises(ValueError, match=r"has no keyword selector: train one with model\.keyword"):
        build_selector("keywords", grounder)


def test_selectors_by_name_by_config_and_ready():
    reader = build_selector("reader")
    assert build_selector(reader) is reader
    assert build_selector({"type": "reader", "question": "Which?"}).question == "Which?"
    assert MODELS.get("KeywordSelector") is KeywordSelector
    assert isinstance(build_selector(NounChunkSelector(object())), NounChunkSelector)


@pytest.mark.parametrize("wrong", ["nouns", 3, None, {}, {"type": "nouns"}, ["reader"]])
def test_names_that_are_none_are_told(wrong):
    names = "'brackets', " + ", ".join(map(repr, SELECTORS))
    with pytest.raises(ValueError, match=f"there is no phrase selector .*: choose of {names}"):
        build_selector(wrong)


def test_arguments_that_are_none_are_told():
    with pytest.raises(ValueError, match=r"'reader' does not take \{'model': 'x'\}"):
        build_selector({"type": "reader", "model": "x"})
