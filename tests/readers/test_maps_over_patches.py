"""Maps over a resampler's patches: those over its queries, taken to where these looked."""

from pathlib import Path

import pytest
import torch

from flmm.fingerprints import hash_image_input
from flmm.geometry import join_grid_maps
from flmm.readers import FrozenVLM
from flmm.readers.check import compare_with_eager
from flmm.readers.image_processor import ImageProcessorWrapper
from flmm.registry import MODELS
from tests.readers.test_reader_contract import CAPTION, PHRASES, relative_difference
from tests.small_models import SMALL_FAMILIES
from tests.small_models.base import StandInFamily

PATCHES, QUERIES = (8, 8), (4, 4)
OVER_PATCHES = {"map_over": "patches"}
SIZES = [(90, 200), (150, 150), (40, 34)]


def build():
    """A model with four patches for each query, and its processor."""
    family = StandInFamily("qwen_vl", "Qwen-VL-Chat")
    family.values["vision_config"]["image_size"] = 14 * PATCHES[0]
    processor = family.load_processor(Path())
    return family.build_model(family.build_config(Path(), processor, {})), processor


@pytest.fixture(scope="module")
def readers():
    """One model of two heads in its resampler, read with maps over tokens and over patches."""
    model, processor = build()
    pool = model.model.visual.attn_pool.attn
    pool.num_heads, pool.head_dim = 2, pool.embed_dim // 2
    plain = FrozenVLM.from_model(model, processor)
    return plain, FrozenVLM.from_model(model, processor, image_options=OVER_PATCHES)


@torch.no_grad()
def look_eagerly(vlm, image):
    """``[Q, N]``, the published formula: softmax of scaled products, the mean of the heads'."""
    given = []
    pool = vlm.model.model.visual.attn_pool.attn
    hook = pool.register_forward_pre_hook(lambda _, args: given.extend(args))
    vlm.prefill(image, layers=1)
    hook.remove()
    weight, bias = pool.in_proj_weight.chunk(3), pool.in_proj_bias.chunk(3)
    query, key = (given[part][0] @ weight[part].T + bias[part] for part in (0, 1))
    query, key = (item.unflatten(1, (pool.num_heads, -1)).transpose(0, 1) for item in (query, key))
    assert pool.num_heads == 2
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1).mean(0)


def spread(maps, weights):
    return (maps.flatten(-2) @ weights).unflatten(-1, PATCHES)


def test_maps_over_patches_are_those_over_tokens_where_these_looked(readers, noise):
    plain, fine = readers
    image = noise(90, 200)
    passes = []
    tower = fine.model.model.visual
    hook = tower.register_forward_hook(lambda *_: passes.append(1))
    own, other = plain.prefill(image), fine.prefill(image)
    hook.remove()
    assert len(passes) == 2  # one of each reader
    assert own.grid_hw == QUERIES and other.grid_hw == PATCHES
    assert own.image_input.cell_weights is None
    weights = look_eagerly(plain, image)
    assert weights.std() > 0.1 * weights.mean()  # the comparison means something
    assert relative_difference(other.image_input.cell_weights, weights) < 1e-5
    assert hash_image_input(own.image_input) != hash_image_input(other.image_input)
    asked = [*PHRASES, CAPTION]
    expected, seen = plain.attend(own, asked), fine.attend(other, asked)
    assert seen.maps.shape[2:] == PATCHES
    assert relative_difference(seen.maps, spread(expected.maps, weights)) < 1e-5
    torch.testing.assert_close(seen.maps.sum((2, 3)), expected.maps.sum((2, 3)))
    for got, wanted in zip(seen.text_features, expected.text_features):
        assert relative_difference(got, wanted) < 1e-5
    short = fine.attend(fine.prefill(image, layers=2), asked)
    assert relative_difference(short.maps, seen.keep_layers(2, fine.num_heads).maps) < 1e-6
    assert compare_with_eager(fine, other)["relative_difference"] < 1e-5


def test_a_picture_with_another_grid_is_refused(readers, noise):
    plain, fine = readers
    for reader, other, message in (
        (plain, fine, "for maps over patches, the reader gives maps over tokens: tell its image_o"),
        (fine, plain, "for maps over tokens, the reader gives maps over patches: tell its image_o"),
    ):
        with pytest.raises(ValueError, match=message):
            reader.prefill(other.encode(noise(40, 34)))
        dialogue = reader.converse(noise(40, 34))
        with pytest.raises(ValueError, match=message):
            dialogue.ask("What is it?", [other.encode(noise(40, 34))])
        assert len(dialogue.images) == 1


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_pictures_that_are_read_together_keep_their_own_weights(
    readers, noise, padding_side, monkeypatch
):
    plain, fine = readers
    monkeypatch.setattr(fine, "padding_side", padding_side)
    images, asked = [noise(*size) for size in SIZES], [PHRASES, [CAPTION], PHRASES[:1]]
    prefixes = fine.prefill(images)
    assert len({id(prefix.batch) for prefix in prefixes}) == 1
    for image, seen, phrases in zip(images, fine.attend(prefixes, asked), asked):
        alone = fine.attend(fine.prefill(image), phrases)
        assert relative_difference(seen.maps, alone.maps) < 1e-5
        over_tokens = plain.attend(plain.prefill(image), phrases).maps
        expected = spread(over_tokens, look_eagerly(plain, image))
        assert relative_difference(seen.maps, expected) < 1e-5


def test_a_conversation_looks_at_the_patches_of_every_picture(readers, noise):
    images = [noise(*size) for size in SIZES]
    looks = []
    for vlm in readers:
        dialogue = vlm.converse(images[0])
        spans = []
        for shown in ([], images[1:]):  # two at once
            dialogue.ask("What is it?", [vlm.encode(image) for image in shown])
            dialogue.begin("A red cup.")
            spans.append(dialogue.turns[-1].answer)
        forked = dialogue.fork()
        dialogue.undo()
        looks.append(forked.look(spans))
        assert len(dialogue.images) == 1
    plain, fine = looks
    for image, own, other in zip(images, plain, fine, strict=True):
        expected = spread(own.maps, look_eagerly(readers[0], image))
        assert other.maps.shape[2:] == PATCHES
        assert relative_difference(other.maps[-1], expected[-1]) < 1e-5
        torch.testing.assert_close(other.maps, expected)  # the first span sees the first alone


def test_a_tokens_share_lies_where_the_layout_puts_the_token(noise):
    model, processor = build()
    with torch.no_grad():
        SMALL_FAMILIES["qwen_vl"].silence(model)
    vlm = FrozenVLM.from_model(model, processor, image_options=OVER_PATCHES)
    prefix = vlm.prefill(noise(90, 200))
    (grid,) = prefix.grids
    assert grid.box == (0, 0, 200, 90) and len(grid.columns.unique()) == 16
    greatest = prefix.image_input.cell_weights.argmax(1)
    tokens = torch.arange(prefix.image_columns.start, prefix.image_columns.stop)
    assert torch.equal(grid.columns.flatten()[greatest], tokens)


def test_a_config_names_it_for_reader_and_data(tmp_path, noise):
    for part in build():
        part.save_pretrained(tmp_path)
    folder = str(tmp_path)
    vlm = MODELS.build(
        dict(type="FrozenVLM", name_or_path=folder, dtype="bfloat16", image_options=OVER_PATCHES)
    )
    wrapper = ImageProcessorWrapper(folder, map_over="patches")
    assert not wrapper.options  # transformers' processor would warn of what it does not know
    picture = wrapper.encode(noise(50, 80))
    assert picture.over_patches and picture.cell_weights is None
    assert not ImageProcessorWrapper(folder).encode(noise(50, 80)).over_patches
    prefixes = [vlm.prefill(item) for item in (picture, noise(50, 80))]
    assert prefixes[0].image_input.cell_weights.dtype == torch.float32
    first, second = (item.maps for item in vlm.attend(prefixes, [["a cup"]] * 2))
    assert torch.equal(first, second) and first.shape[2:] == PATCHES
    grounder_maps = join_grid_maps([first], picture.grids, vlm.num_grids)
    assert grounder_maps.shape == (1, vlm.num_channels, *PATCHES)
    with pytest.raises(ValueError, match="map_over 'pixels' is not known: give 'tokens' or"):
        ImageProcessorWrapper(folder, map_over="pixels")
