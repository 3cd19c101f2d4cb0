"""Scores that stay within a cap, which transformers' SDPA does not apply."""

import pytest
import torch

from flmm import load_reader
from flmm.readers import attention
from flmm.readers.attention import CHUNKED_ATTENTION
from flmm.readers.check import check_reader
from flmm.readers.loading import choose_attention
from tests.readers.conftest import ask
from tests.readers.test_reader_contract import ShapeRecorder, relative_difference
from tests.small_models import build_small_config, save_small_folder

FAMILIES = ("paligemma2", "gemma4")


def list_attention(model):
    parts = model.config.get_text_config(), model.config.vision_config
    return [part._attn_implementation for part in parts]


@pytest.fixture(scope="module")
def capped(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("capped")
    return load_reader(save_small_folder(data_dir, "paligemma2", folder), dtype="float32")


def test_a_capped_language_model_is_read_in_chunks_of_rows(capped, noise, monkeypatch):
    assert list_attention(capped.model) == [CHUNKED_ATTENTION, "sdpa"]
    image = noise(100, 140)
    whole = capped.prefill(image)
    monkeypatch.setattr(attention, "MAX_SCORES", 4 * 7 * len(whole))  # seven rows of four heads
    with ShapeRecorder() as recorder:
        chunked = capped.prefill(image)
    assert (1, 4, len(whole), len(whole)) not in recorder.shapes
    assert (1, 4, 7, len(whole)) in recorder.shapes
    assert relative_difference(chunked.last_hidden_state, whole.last_hidden_state) < 1e-6


def test_a_check_leaves_every_parts_attention_as_it_was(capped, noise):
    before = list_attention(capped.model)
    assert not check_reader(capped, noise(60, 60))["problems"]
    assert list_attention(capped.model) == before


def test_what_is_asked_for_is_chosen_where_it_can_be_had(data_dir):
    capped = build_small_config(data_dir, "paligemma2")
    assert choose_attention(capped, "eager") == "eager"
    assert choose_attention(capped, "flash_attention_2") == "flash_attention_2"
    for name in ("paligemma", "gemma3", "gemma4", "qwen3_vl"):
        assert choose_attention(build_small_config(data_dir, name), "sdpa") == "sdpa"


@torch.no_grad()
def test_scores_of_tokens_are_transformers_logits(vlm, eager, noise):
    image = noise(100, 140)
    prefix = vlm.prefill(image, "What?")
    inputs = eager.prepare([ask("What?")], [image])
    expected = eager.model(**inputs).logits[:, -1]
    got = vlm.score(prefix.last_hidden_state[None])
    assert relative_difference(got, expected) < 1e-5
    assert got.abs().max() <= vlm.text_config.final_logit_softcapping
