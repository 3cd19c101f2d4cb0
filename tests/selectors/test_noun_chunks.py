"""spaCy's noun chunks, on a real pipeline whose parse is set by hand (no model is shipped)."""

import sys

import pytest

from flmm.selectors import NounChunkSelector, build_selector
from flmm.selectors.building import _load_pipeline

spacy = pytest.importorskip("spacy")
from spacy.language import Language  # noqa: E402
from spacy.tokens import Doc  # noqa: E402

# Word, part of speech, dependency, place of the head.
SENTENCE = [
    ("A", "DET", "det", 1),
    ("man", "NOUN", "nsubj", 2),
    ("holds", "VERB", "ROOT", 2),
    ("two", "NUM", "nummod", 5),
    ("red", "ADJ", "amod", 5),
    ("cups", "NOUN", "dobj", 2),
    ("near", "ADP", "prep", 2),
    ("the", "DET", "det", 8),
    ("image", "NOUN", "pobj", 6),
    ("and", "CCONJ", "cc", 2),
    ("he", "PRON", "nsubj", 11),
    ("sees", "VERB", "conj", 2),
    ("a", "DET", "det", 13),
    ("man", "NOUN", "dobj", 11),
    (".", "PUNCT", "punct", 2),
]


@Language.component("hand_parse")
def hand_parse(doc):
    words, tags, deps, heads = zip(*SENTENCE)
    assert [token.text for token in doc] == list(words)
    return Doc(
        doc.vocab, list(words), [t.whitespace_ != "" for t in doc], pos=tags, deps=deps, heads=heads
    )


@pytest.fixture
def pipeline():
    pipeline = spacy.blank("en")
    pipeline.add_pipe("hand_parse")
    return pipeline


def test_every_chunk_but_pronouns_and_the_image(pipeline, build_answer):
    text = "A man holds two red cups near the image and he sees a man."
    spans = NounChunkSelector(pipeline).select(build_answer(text))
    assert [text[slice(*span)] for span in spans] == ["A man", "two red cups", "a man"]
    assert spans[0] == (0, 5) and spans[2][0] == text.rindex("a man")


def test_a_saved_pipeline_is_found_by_its_folder_and_loaded_once(pipeline, tmp_path, build_answer):
    pipeline.to_disk(tmp_path / "mine")
    config = {"type": "noun_chunks", "model": str(tmp_path / "mine")}
    first, second = build_selector(config), build_selector(config)
    assert first.pipeline is second.pipeline
    assert len(first.select(build_answer(" ".join(word for word, *_ in SENTENCE)))) == 3


def test_a_missing_model_is_told_and_not_an_empty_choice():
    with pytest.raises(ImportError, match=r"model en_no_such is not installed: python -m spacy do"):
        build_selector({"type": "noun_chunks", "model": "en_no_such"})


def test_missing_spacy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    _load_pipeline.cache_clear()
    with pytest.raises(ImportError, match=r"needs spaCy: pip install 'flmm\[noun-chunks\]'"):
        build_selector("noun_chunks")


def test_pipelines_that_find_no_chunks_are_told(build_answer):
    with pytest.raises(ValueError, match=r"pipeline en_pipeline has no parser.*such as en_core"):
        NounChunkSelector(spacy.blank("en")).select(build_answer("a dog"))
    other = spacy.blank("xx")

    @Language.component("one_root")
    def one_root(doc):
        return Doc(doc.vocab, ["a", "dog"], heads=[1, 1], deps=["det", "ROOT"])

    other.add_pipe("one_root")
    with pytest.raises(ValueError, match="no noun chunks in the language of the pipeline xx_"):
        NounChunkSelector(other).select(build_answer("a dog"))
