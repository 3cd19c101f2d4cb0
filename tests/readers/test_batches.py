"""Several images in one pass: whatever is read of one is what it gives alone."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from flmm.readers import FrozenVLM
from flmm.readers.prefixes import plan_batches
from flmm.records import Continuation
from tests.readers.conftest import FEW, find_vision_tower
from tests.readers.test_reader_contract import CAPTION, PHRASES, ShapeRecorder, relative_difference
from tests.small_models import build_small_model, load_processor

FAMILIES = FEW
SIZES = [(150, 150), (90, 430), (430, 90), (9, 14), (200, 260)]
QUESTIONS = [PHRASES, PHRASES[:1], [CAPTION, "x"], ["a dog", "左边的红色杯子"], PHRASES[1:3]]


@pytest.fixture()
def images(noise):
    return [noise(*size) for size in SIZES]


@pytest.fixture(params=["right", "left"])
def batching(vlm, request, monkeypatch):
    """Everything in one pass, whatever the padding."""
    monkeypatch.setattr(vlm, "padding_side", request.param)
    monkeypatch.setattr(vlm, "max_batch_padding", 1.0)


@contextmanager
def count_passes(vlm):
    """Rows and columns of every pass of the vision tower and of the language model."""
    seen = {"vision": [], "language": []}
    language_model = vlm.model.model.language_model

    def note_language(module, args, kwargs, output):
        seen["language"].append(tuple(output.last_hidden_state.shape[:2]))

    hooks = [
        find_vision_tower(vlm).register_forward_hook(lambda *_: seen["vision"].append(1)),
        language_model.register_forward_hook(note_language, with_kwargs=True),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def assert_same(seen, expected):
    assert seen.maps.shape == expected.maps.shape
    assert relative_difference(seen.maps, expected.maps) < 1e-5
    assert len(seen.text_features) == len(expected.text_features)
    for got, wanted in zip(seen.text_features, expected.text_features):
        assert got.shape == wanted.shape and relative_difference(got, wanted) < 1e-5
    assert all(map(torch.equal, seen.input_ids, expected.input_ids))


@pytest.mark.usefixtures("batching")
class TestBatchEqualsOneByOne:
    def test_prefixes(self, vlm, images):
        with count_passes(vlm) as passes:
            batch = vlm.prefill(images, "Where are they?")
        lengths = [len(prefix) for prefix in batch]
        assert len(passes["vision"]) == 1
        assert passes["language"] == [(len(images), max(lengths))]
        assert len(set(lengths)) > 2  # there is padding
        for prefix, image in zip(batch, images):
            alone = vlm.prefill(image, "Where are they?")
            assert prefix.input_ids.equal(alone.input_ids)
            assert prefix.grid_hw == alone.grid_hw
            assert prefix.image_columns == alone.image_columns
            assert prefix.next_position == alone.next_position
            assert relative_difference(prefix.last_hidden_state, alone.last_hidden_state) < 1e-5
            for got, wanted in zip(prefix.cache.layers, alone.cache.layers):
                assert got.keys.shape == wanted.keys.shape
                assert relative_difference(got.keys, wanted.keys) < 1e-5
                assert relative_difference(got.values, wanted.values) < 1e-5

    def test_attention_in_one_pass(self, vlm, images):
        batch = vlm.prefill(images)
        with count_passes(vlm) as passes:
            seen = vlm.attend(batch, QUESTIONS)
        rows = max(sum(map(len, item.input_ids)) for item in seen)
        assert passes == {"vision": [], "language": [(len(images), rows)]}
        for item, image, phrases in zip(seen, images, QUESTIONS):
            assert_same(item, vlm.attend(vlm.prefill(image), phrases))

    def test_attention_of_some_of_a_batch_in_any_order(self, vlm, images):
        batch = vlm.prefill(images)
        stranger = vlm.prefill(images[0])
        chosen = [batch[3], stranger, batch[0], batch[3]]
        with count_passes(vlm) as passes:
            seen = vlm.attend(chosen, QUESTIONS[:4])
        assert [rows for rows, _ in passes["language"]] == [3, 1]
        for item, prefix, phrases in zip(seen, chosen, QUESTIONS):
            assert_same(item, vlm.attend(prefix, phrases))

    def test_the_greatest_weight(self, vlm, images, monkeypatch):
        monkeypatch.setattr(vlm, "token_merge", "max")
        for item, image, phrases in zip(
            vlm.attend(vlm.prefill(images), QUESTIONS), images, QUESTIONS
        ):
            assert_same(item, vlm.attend(vlm.prefill(image), phrases))

    def test_answers(self, vlm, images):
        batch = vlm.prefill(images[:3], "What is it?")
        before = [layer.keys for layer in batch[0].batch.cache.layers]
        for prefix, image in zip(batch, images):
            alone = vlm.prefill(image, "What is it?")
            assert vlm.generate(prefix, 8) == vlm.generate(alone, 8)
            questions = ["Where?", "What is left of the lamp?"]
            assert vlm.answer(prefix, questions, 6) == vlm.answer(image, questions, 6)
            assert {layer.get_seq_length() for layer in prefix.cache.layers} == {len(prefix)}
        after = [layer.keys for layer in batch[0].batch.cache.layers]
        assert all(map(torch.equal, before, after))
        assert_same(vlm.attend(batch, QUESTIONS[:3])[0], vlm.attend(batch[0], QUESTIONS[0]))

    def test_packs_that_are_too_long_go_image_by_image(self, vlm, images, monkeypatch):
        batch = vlm.prefill(images)
        expected = vlm.attend(batch, QUESTIONS)
        monkeypatch.setattr(vlm, "max_rows", 5)
        with count_passes(vlm) as passes:
            seen = vlm.attend(batch, QUESTIONS)
        assert {rows for rows, _ in passes["language"]} == {1}
        for item, wanted in zip(seen, expected):
            assert_same(item, wanted)

    def test_a_prefix_shares_the_memory_of_its_batch(self, vlm, images):
        batch = vlm.prefill(images)
        for prefix in batch:
            for layer, shared in zip(prefix.cache.layers, prefix.batch.cache.layers):
                assert layer.keys.untyped_storage().data_ptr() == (
                    shared.keys.untyped_storage().data_ptr()
                )

    def test_half_precision_is_finite(self, data_dir, vlm, family, images):
        model = build_small_model(data_dir, family).to(torch.bfloat16)
        half = FrozenVLM.from_model(model, load_processor(data_dir, family))
        half.padding_side, half.max_batch_padding = vlm.padding_side, 1.0
        for item in half.attend(half.prefill(images), QUESTIONS):
            assert item.maps.dtype == torch.float32 and item.maps.isfinite().all()
            assert all(features.isfinite().all() for features in item.text_features)


def attend_like_flash(module, query, key, value, attention_mask, scaling=None, **_):
    """Attention in FlashAttention's terms: a 2-D padding mask or none; rows cut to their tokens."""
    output = torch.zeros_like(query)
    for row in range(len(query)):
        real = slice(None) if attention_mask is None else attention_mask[row]
        q, k, v = (states[row][:, real] for states in (query, key, value))
        output[row][:, real] = scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, scale=scaling, enable_gqa=True
        )[0]
    return output.transpose(1, 2).contiguous(), None


@pytest.mark.usefixtures("batching")
@pytest.mark.parametrize("implementation", ["eager", "flash_like"])
def test_any_attention_of_transformers_reads_a_batch(vlm, images, implementation, monkeypatch):
    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_like", attend_like_flash)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "flash_like", flash_attention_mask)
    with monkeypatch.context() as patch:
        patch.setattr(vlm.text_config, "_attn_implementation", implementation)
        batch = vlm.prefill(images)
        assert vlm.text_config._attn_implementation == implementation
        seen = vlm.attend(batch, QUESTIONS)
        assert vlm.text_config._attn_implementation == implementation
    for item, image, phrases in zip(seen, images, QUESTIONS):
        assert_same(item, vlm.attend(vlm.prefill(image), phrases))


def test_images_that_need_no_mask_have_none(vlm, noise, monkeypatch):
    """One image, images of one size, and right padding keep the fast causal kernels."""
    masks = []
    hook = vlm.model.model.language_model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    monkeypatch.setattr(vlm, "max_batch_padding", 1.0)
    try:
        vlm.prefill([noise(100, 100), noise(90, 300)])
        monkeypatch.setattr(vlm, "padding_side", "left")
        vlm.prefill(noise(100, 100))
        vlm.prefill([noise(100, 100), noise(100, 100)])
        assert masks == [None, None, None]
        vlm.prefill([noise(100, 100), noise(90, 300)])
        assert masks[-1] is not None
    finally:
        hook.remove()


def test_no_pass_is_larger_than_allowed(vlm, noise, monkeypatch):
    images = [noise(height, 100 + 7 * height) for height in (90, 30, 200, 60, 90, 140, 31)]
    lengths = [len(vlm.prefill(image)) for image in images]
    limit = 2 * max(lengths) + 50
    monkeypatch.setattr(vlm, "max_batch_tokens", limit)
    with count_passes(vlm) as passes:
        batch = vlm.prefill(images)
    assert [len(prefix) for prefix in batch] == lengths
    assert all(math.prod(shape) <= limit for shape in passes["language"])
    assert len(passes["vision"]) == len(passes["language"]) < len(images)
    for prefix, image in zip(batch, images):
        assert_same(vlm.attend(prefix, PHRASES), vlm.attend(vlm.prefill(image), PHRASES))


def test_an_empty_list_is_an_empty_batch(vlm):
    assert vlm.prefill([]) == [] and vlm.attend([], []) == []


def test_an_unknown_padding_side_is_refused(vlm, noise, monkeypatch):
    monkeypatch.setattr(vlm, "padding_side", "both")
    with pytest.raises(ValueError, match="padding_side is 'both': set 'right' or 'left'"):
        vlm.prefill(noise(30, 30))


class TestPlan:
    @pytest.mark.parametrize("max_padding", [0.0, 0.1, 0.25, 1.0])
    @pytest.mark.parametrize("max_tokens", [1, 700, 4000])
    def test_limits_hold_and_every_image_is_read_once(self, max_tokens, max_padding):
        lengths = np.random.default_rng(0).integers(20, 900, 60).tolist()
        batches = list(plan_batches(lengths, max_tokens, max_padding))
        assert sorted(place for batch in batches for place in batch) == list(range(60))
        for batch in batches:
            own = [lengths[place] for place in batch]
            size = max(own) * len(own)
            assert len(own) == 1 or size <= max_tokens
            assert 1 - sum(own) / size <= max_padding

    def test_similar_images_go_together(self):
        assert list(plan_batches([100, 1000, 990, 105], 8192, 0.25)) == [[1, 2], [3, 0]]
        assert list(plan_batches([100, 1000, 990, 105], 8192, 1.0)) == [[1, 2, 3, 0]]
        assert list(plan_batches([500] * 5, 1000, 0.25)) == [[0, 1], [2, 3], [4]]


def test_reading_many_images_makes_no_square_of_their_length(vlm, noise):
    images = [noise(400, 300), noise(300, 400)]
    with ShapeRecorder() as reading:
        batch = vlm.prefill(images)
    length = batch[0].batch.input_ids.shape[1]
    assert batch[0].batch is batch[1].batch
    assert not [shape for shape in reading.shapes if shape.count(length) > 1]
    with ShapeRecorder() as attending:
        seen = vlm.attend(batch, [PHRASES, [Continuation("a dog")]])
    rows = max(sum(map(len, item.input_ids)) for item in seen)
    most = max(map(math.prod, attending.shapes))
    assert most <= 2 * vlm.num_heads * rows * (length + rows)
