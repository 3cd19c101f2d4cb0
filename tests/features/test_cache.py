"""The feature cache behind the real tiny grounder: the same results, nothing computed twice."""

import copy
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
import torch
from mmengine.config import Config

from flmm.features import FeatureCache
from flmm.readers import FrozenQwen
from flmm.records import Continuation, as_continuations
from flmm.registry import MODELS
from tests.features.conftest import TINY


def attach(grounder, folder, dtype="float32", **settings):
    """A cache as another process would open it."""
    grounder.feature_cache = FeatureCache(folder, grounder.vlm, grounder.sam, dtype, **settings)
    return grounder.feature_cache


def count_calls(grounder):
    """How often the frozen models really run from now on."""
    calls = Counter()
    watched = {
        "prefill": grounder.vlm.model.model,
        "decode": grounder.vlm.model.model.language_model,
        "encode": grounder.sam.sam.image_encoder,
    }
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    return calls


class UnreadError(Exception):
    """Somebody asked for what is not known."""


def list_missing(cache, image, continuations):
    """What would have to be read."""
    missing = []

    def read(images, asked):
        missing.extend(asked[0])
        raise UnreadError

    with suppress(UnreadError):
        cache.read_phrases([image], [continuations], read)
    return missing


def assert_losses_close(found, wanted, atol):
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-6), ("float16", 2e-4)])
def test_losses_and_gradients_are_the_same_and_nothing_runs_twice(
    grounder, batch, tmp_path, dtype, atol
):
    wanted = grounder(*batch, mode="loss")
    wanted["loss_mask"].backward()
    gradient = grounder.mask_head.conv_seg.weight.grad.clone()
    attach(grounder, tmp_path, dtype)
    calls = count_calls(grounder)
    assert_losses_close(grounder(*batch, mode="loss"), wanted, 1e-6)
    first = calls.copy()
    assert first["encode"] and first["prefill"] and first["decode"] > first["prefill"]

    attach(grounder, tmp_path, dtype)
    found = grounder(*batch, mode="loss")
    assert calls == first
    assert_losses_close(found, wanted, atol)
    grounder.zero_grad()
    found["loss_mask"].backward()
    difference = (grounder.mask_head.conv_seg.weight.grad - gradient).norm() / gradient.norm()
    assert difference <= 10 * atol


def test_float16_storage_changes_something(grounder, batch, tmp_path):
    """Otherwise the test above would compare nothing."""
    seen = grounder.read_phrases([batch[0][0]], [batch[1][0].continuations])[0]
    for dtype in ("float32", "float16"):
        attach(grounder, tmp_path, dtype)
        grounder.read_phrases([batch[0][0]], [batch[1][0].continuations])
        found = grounder.read_phrases([batch[0][0]], [batch[1][0].continuations])[0]
        assert torch.equal(found.maps, seen.maps) == (dtype == "float32")
        relative = (found.maps - seen.maps).abs() / seen.maps
        assert relative[seen.maps > 1e-7].max() <= 2**-11
        for one, other in zip(found.text_features, seen.text_features):
            torch.testing.assert_close(one, other, rtol=2**-11, atol=1e-6)
        for one, other in zip(found.input_ids, seen.input_ids):
            assert torch.equal(one, other) and one.dtype == other.dtype


def test_only_what_is_missing_is_read(grounder, batch, tmp_path):
    image = batch[0][0]
    phrases = as_continuations(["the red circle", "a square", "the blue one"])
    joined = Continuation("a circle, a square", ((0, 8), (10, 18)))
    asked = [phrases[0], joined, phrases[1], phrases[2]]
    wanted = grounder.read_phrases([image], [asked])[0]
    attach(grounder, tmp_path)
    grounder.read_phrases([image], [[phrases[1], joined]])
    assert list_missing(grounder.feature_cache, image, asked) == [phrases[0], phrases[2]]
    calls = count_calls(grounder)
    found = grounder.read_phrases([image], [asked])[0]
    assert calls["prefill"] == 1
    torch.testing.assert_close(found.maps, wanted.maps, rtol=0, atol=1e-6)
    assert len(found.text_features) == 5
    for one, other in zip(found.text_features, wanted.text_features):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_of_a_batch_only_unknown_pictures_are_read(grounder, batch, tmp_path):
    images, continuations = batch[0], [sample.continuations for sample in batch[1]]
    wanted = grounder.read_phrases(images, continuations)
    attach(grounder, tmp_path)
    grounder.read_phrases(images[:1], continuations[:1])
    grounder.encode_images(images[:1])
    calls = count_calls(grounder)
    found = grounder.read_phrases(images, continuations)
    grounder.encode_images(images)
    assert (calls["prefill"], calls["encode"]) == (1, 1)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one.maps, other.maps, rtol=0, atol=1e-6)


def test_predictions_are_the_same(grounder, batch, tmp_path):
    image, questions = batch[0][0], [batch[1][0].continuations, as_continuations(["the circle"])]
    (wanted,) = grounder.predict_images([image], [questions])
    attach(grounder, tmp_path)
    for _ in range(2):
        calls = count_calls(grounder)
        for found, one in zip(grounder.predict_images([image], [questions])[0], wanted):
            assert np.array_equal(found.masks, one.masks)
            assert np.array_equal(found.coarse_masks, one.coarse_masks)
            np.testing.assert_allclose(found.scores, one.scores, rtol=1e-5)
    assert not calls


def test_what_inference_mode_wrote_can_be_trained_on(grounder, batch, tmp_path):
    attach(grounder, tmp_path)
    with torch.inference_mode():
        grounder(*batch)
    calls = count_calls(grounder)
    grounder(*batch, mode="loss")["refined_loss_mask"].backward()
    assert not calls and grounder.text_proj.weight.grad.abs().sum() > 0


def test_an_embedding_under_autocast_is_another_one(grounder, batch, tmp_path):
    attach(grounder, tmp_path)
    exact = grounder.encode_images(batch[0][:1])[0].features["embedding"]
    calls = count_calls(grounder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = grounder.encode_images(batch[0][:1])[0].features["embedding"]
        again = grounder.encode_images(batch[0][:1])[0].features["embedding"]
    assert calls["encode"] == 1
    assert not torch.equal(exact, rounded) and torch.equal(rounded, again)
    assert again.dtype == rounded.dtype
    assert torch.equal(grounder.encode_images(batch[0][:1])[0].features["embedding"], exact)


def test_sizes_come_back_with_the_embedding(grounder, batch, tmp_path):
    attach(grounder, tmp_path)
    wanted, found = (grounder.encode_images(batch[0][:1])[0] for _ in range(2))
    assert (found.original_size, found.input_size) == (wanted.original_size, wanted.input_size)


def build(**changes):
    """The tiny grounder; ``changes`` of the reader's config."""
    cfg = Config.fromfile(TINY).model
    cfg.model.update(changes)
    torch.manual_seed(0)
    return MODELS.build(cfg)


def is_known(grounder, image, continuations, folder, dtype="float32"):
    """Whether a process with this grounder finds phrases, and the embedding."""
    cache = attach(grounder, folder, dtype)
    missing = list_missing(cache, image, continuations)
    assert len(missing) in (0, len(continuations))

    def encode(pictures):
        if pictures:
            raise UnreadError
        return []

    try:
        return not missing, bool(cache.encode([image], encode))
    except UnreadError:
        return not missing, False


@pytest.fixture
def filled(grounder, batch, tmp_path):
    """A folder that knows the first picture of the batch and its phrases."""
    attach(grounder, tmp_path / "cache")
    grounder(batch[0][:1], batch[1][:1])
    return tmp_path / "cache"


def change_one_weight(module):
    parameter = list(module.parameters())[-3]
    with torch.no_grad():
        parameter.view(-1)[-1] += 1e-6
    return parameter


@pytest.mark.parametrize(
    "changes",
    [
        {"token_merge": "max"},
        {"prompt": "What is in the image?"},
        {"dtype": "bfloat16"},
        {"attn_implementation": "eager"},
        {"max_pixels": 28 * 28 * 400},
        {"random_init": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_changed_reader_finds_nothing(batch, filled, changes):
    image, continuations = batch[0][0], batch[1][0].continuations
    assert is_known(build(), image, continuations, filled) == (True, True)
    assert is_known(build(**changes), image, continuations, filled) == (False, True)


def test_a_reading_of_fewer_layers_is_another_one(grounder, batch, filled):
    image, continuations = batch[0][0], batch[1][0].continuations
    for layers, known in ((None, True), (5, True), (4, False)):
        cache = attach(grounder, filled, layers=layers)
        assert (not list_missing(cache, image, continuations)) == known


def test_one_changed_weight_of_the_reader_is_noticed(batch, filled):
    changed = build()
    change_one_weight(changed.vlm.model)
    image, continuations = batch[0][0], batch[1][0].continuations
    assert is_known(changed, image, continuations, filled) == (False, True)


def test_one_changed_weight_of_the_image_encoder_is_noticed(batch, filled):
    changed = build()
    change_one_weight(changed.sam.sam.image_encoder)
    image, continuations = batch[0][0], batch[1][0].continuations
    assert is_known(changed, image, continuations, filled) == (True, False)


def test_another_normalisation_before_the_image_encoder_is_noticed(batch, filled):
    changed = build()
    changed.sam.sam.pixel_mean += 1
    image, continuations = batch[0][0], batch[1][0].continuations
    assert is_known(changed, image, continuations, filled) == (True, False)


def test_another_tokenizer_is_noticed(batch, filled):
    changed = build()
    changed.vlm.tokenizer.add_tokens(["zebra"])
    image, continuations = batch[0][0], batch[1][0].continuations
    assert is_known(changed, image, continuations, filled) == (False, True)


def test_another_template_is_noticed(batch, filled):
    changed = build()
    template = changed.vlm.processor.chat_template
    changed.vlm.processor.chat_template = template.replace("assistant", "helper")
    assert changed.vlm.processor.chat_template != template
    image, continuations = batch[0][0], batch[1][0].continuations
    assert is_known(changed, image, continuations, filled) == (False, True)


def test_another_storage_or_format_is_noticed(grounder, batch, filled, monkeypatch):
    image, continuations = batch[0][0], batch[1][0].continuations
    assert is_known(grounder, image, continuations, filled, "float16") == (False, False)
    monkeypatch.setattr("flmm.features.cache.FORMAT", 10**6)
    assert is_known(grounder, image, continuations, filled) == (False, False)


def test_the_loaders_own_processor_counts(grounder, batch, filled):
    """Its settings may differ from the reader's: what it made of the picture is in the key."""
    image, continuations = batch[0][0], batch[1][0].continuations
    assert is_known(grounder, image, continuations, filled) == (True, True)
    processor = copy.deepcopy(grounder.vlm.image_processor)
    processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    shifted = processor.encode(image.image)
    assert shifted.grids[0].size == image.grids[0].size
    assert is_known(grounder, shifted, continuations, filled) == (False, True)
    one = copy.deepcopy(image)
    one.pixel_values[-1, -1, -1] += 1e-6
    assert is_known(grounder, one, continuations, filled) == (False, True)


def test_another_picture_or_text_is_noticed(grounder, batch, filled):
    image, continuations = batch[0][0], batch[1][0].continuations
    other = copy.deepcopy(image)
    other.image[-1, -1, -1] ^= 1
    assert is_known(grounder, other, continuations, filled) == (False, False)
    turned = copy.deepcopy(image)
    turned.image = np.ascontiguousarray(image.image.reshape(-1, 1, 3))
    assert is_known(grounder, turned, continuations, filled) == (False, False)
    cache, text = grounder.feature_cache, continuations[0].text
    for asked in (Continuation(text + " "), Continuation(text, ((0, 3),)), Continuation(text[1:])):
        assert list_missing(cache, image, [asked]) == [asked]


def test_a_model_that_was_moved_finds_its_features(batch, filled, tmp_path):
    """The content counts, not the name."""
    vlm = FrozenQwen("tiny", dtype="float32")
    vlm.model.save_pretrained(tmp_path / "moved")
    vlm.processor.save_pretrained(tmp_path / "moved")
    moved = build(name_or_path=str(tmp_path / "moved"))
    image, continuations = batch[0][0], batch[1][0].continuations
    assert is_known(moved, image, continuations, filled) == (True, True)


def test_without_image_embeddings_the_encoder_runs(grounder, batch, tmp_path):
    grounder.feature_cache = FeatureCache(tmp_path, grounder.vlm, None)
    calls = count_calls(grounder)
    for _ in range(2):
        grounder(batch[0][:1], batch[1][:1])
    assert (calls["prefill"], calls["encode"]) == (1, 2)


def test_past_the_limit_everything_is_computed(grounder, batch, tmp_path, messages):
    wanted = grounder(*batch, mode="loss")
    attach(grounder, tmp_path, max_gb=1e-9)
    for _ in range(2):
        assert_losses_close(grounder(*batch, mode="loss"), wanted, 1e-6)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert len(messages) == 1 and "computed each time" in messages[0]


def test_a_damaged_file_is_computed_anew(grounder, batch, filled, messages):
    wanted = grounder(batch[0][:1], batch[1][:1])[0].refined_mask_logits
    files = list(filled.rglob("*.safetensors"))
    for path in files:
        content = bytearray(path.read_bytes())
        content[-1000] ^= 16
        path.write_bytes(content)
    attach(grounder, filled)
    calls = count_calls(grounder)
    found = grounder(batch[0][:1], batch[1][:1])[0].refined_mask_logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (calls["prefill"], calls["encode"]) == (1, 1)
    assert len(messages) == len(files) and all("checksum" in text for text in messages)
    grounder(batch[0][:1], batch[1][:1])
    assert (calls["prefill"], calls["encode"]) == (1, 1)


def test_a_copy_of_the_grounder_shares_the_cache(grounder, tmp_path):
    cache = attach(grounder, tmp_path)
    assert copy.deepcopy(grounder).feature_cache is cache
    assert not any("feature_cache" in name for name in grounder.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float8"}, "feature_cache.dtype is 'float8': give 'float16' or 'float32'"),
        ({"max_gb": 0}, "feature_cache.max_gb is 0: give a number above 0"),
    ],
)
def test_impossible_settings_are_told(grounder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        attach(grounder, tmp_path, **settings)


def test_weights_that_are_elsewhere_are_told(grounder, tmp_path):
    grounder.vlm.model.model.language_model.norm.to("meta")
    with pytest.raises(ValueError, match=r"norm\.weight is offloaded to disk.*leave feature_cache"):
        attach(grounder, tmp_path)
