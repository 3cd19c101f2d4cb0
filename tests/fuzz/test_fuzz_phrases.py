"""Phrases of any text: refused, or read as text, without a trace in their neighbours."""

import random
from typing import Any

import numpy as np
import pytest

from flmm import GroundingInferencer
from flmm.records import Continuation, as_continuations
from flmm.selectors import parse_brackets
from flmm.toy.shape_sentences import render_samples
from tests.fuzz.harness import Fuzz

pytestmark = pytest.mark.fuzz

PIECES = (
    *("the red circle", "dog", "a ", " ", "\n", "\t", "\u00a0", "\u200b", "\u2028"),
    *("\0", "\x1b[2J", "<|image_pad|>", "<|im_end|>"),
    *("漢字", "é", "e\u0301", "👨‍👩‍👧", "ﷺ", "\ud83d", "\udc00", "\ufeff", "ａ"),
    *("<image>", "[", "]", "\\", "\\[", "{}", "%s", "</s>", "<script>", "'", '"', "1e999"),
)  # fmt: skip
NO_TEXT = (None, 5, b"dog", ["dog"], {"a": 1}, 1.5, np.str_("dog"))
OTHER = "the red circle"


def make_text(rng: random.Random) -> str:
    text = "".join(rng.choices(PIECES, k=rng.randrange(1, 9)))
    if rng.random() < 0.1:
        text += "".join(chr(rng.randrange(0x30000)) for _ in range(rng.randrange(30)))
    return text * rng.choice((1,) * 60 + (20,))


def make_phrase(rng: random.Random) -> Any:
    if rng.random() < 0.05:
        return rng.choice(NO_TEXT)
    text = make_text(rng)
    if rng.random() < 0.2:
        spans = [
            (rng.randrange(-1, len(text) + 2), rng.randrange(-1, len(text) + 2))
            for _ in range(rng.randrange(3))
        ]
        return text, spans
    return text


@pytest.fixture(scope="module")
def inferencer() -> GroundingInferencer:
    return GroundingInferencer("configs/tiny/tiny_unet_sam_shapes.py", device="cpu")


def test_phrases(fuzz: Fuzz, inferencer: GroundingInferencer) -> None:
    picture, _, _ = render_samples(1, seed=3)[0]
    alone = inferencer(picture, [OTHER])

    def judge(given: Any) -> None:
        try:
            phrase = Continuation(*given) if isinstance(given, tuple) else given
            result = inferencer(picture, [phrase, OTHER])
        except (ValueError, TypeError) as error:
            assert 0 < len(str(error)) < 1000 or isinstance(given, tuple)
            return
        texts = as_continuations([phrase])[0].phrases
        assert all(text.strip() for text in texts) and result.phrases == [*texts, OTHER]
        assert result.masks.shape == (len(texts) + 1, *picture.shape[:2])
        assert np.isfinite(result.scores).all() and (result.scores >= 0).all()
        assert (result.masks.any((1, 2)) == (result.scores > 0)).all()
        # Phrases are isolated; the last bit of a logit may depend on the others.
        assert result.scores[-1] == pytest.approx(alone.scores[0], abs=1e-3)
        assert (result.masks[-1] != alone.masks[0]).mean() < 1e-3

    fuzz.check(make_phrase, judge)


def test_brackets(fuzz: Fuzz) -> None:
    def judge(text: str) -> None:
        try:
            plain, spans = parse_brackets(text)
        except ValueError as error:
            assert len(str(error)) < 3000
            return
        for start, end in spans:
            assert plain[start:end] and plain[start:end] == plain[start:end].strip()
        bare = text.replace("\\[", "").replace("\\]", "")
        assert len(spans) == bare.count("[") == bare.count("]")
        kept = text.replace("\\[", "\1").replace("\\]", "\2").replace("[", "").replace("]", "")
        assert plain == kept.replace("\1", "[").replace("\2", "]")

    fuzz.check(lambda rng: make_text(rng).replace("\1", "").replace("\2", ""), judge)
