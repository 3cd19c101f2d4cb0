"""The wrapper's pictures, cut into patches, are the unified processor's own."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from PIL import Image
from transformers import AutoProcessor
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

from flmm.readers import QwenImageProcessorWrapper
from flmm.registry import IMAGE_PROCESSORS

PHOTOGRAPHS = [
    "coco/000000000785.jpg",
    "coco/000000039769.png",
    "coco/000000040083.jpg",
    "panoptic/000000142238.jpg",
]
ODD_SIZES = [(1, 1), (3, 17), (29, 27), (255, 641), (7, 1400), (601, 13), (224, 224)]


@pytest.fixture(scope="module", params=["Qwen2_VL", "Qwen2_5_VL", "Qwen3_VL", "PIL"])
def processor(request, data_dir):
    if request.param == "PIL":
        return Qwen2VLImageProcessorPil.from_pretrained(data_dir / "qwen" / "Qwen2_5_VL")
    return AutoProcessor.from_pretrained(data_dir / "qwen" / request.param)


@pytest.fixture(scope="module")
def wrapper(processor):
    return QwenImageProcessorWrapper(processor, max_pixels=256 * 1024)


def assert_equal_to_unified(wrapper, image):
    expected = wrapper.image_processor(images=[image], return_tensors="pt")
    got = wrapper.preprocess(image)
    patches = wrapper.patchify(torch.from_numpy(got["pixel_values"][0]))
    assert got["image_grid_thw"] == [tuple(expected["image_grid_thw"][0].tolist())]
    assert patches.shape == expected["pixel_values"].shape
    assert (patches - expected["pixel_values"]).abs().max() < 1e-5


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_photographs_equal_the_unified_processor(wrapper, data_dir, photograph):
    assert_equal_to_unified(wrapper, Image.open(data_dir / photograph).convert("RGB"))


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_odd_sizes_equal_the_unified_processor(wrapper, size):
    pixels = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    assert_equal_to_unified(wrapper, Image.fromarray(pixels))


def test_the_contract_of_preprocess(wrapper):
    image = np.full((100, 50, 3), 255, np.uint8)
    result = wrapper.preprocess([image, Image.new("L", (70, 30))])
    assert set(result) == {"pixel_values", "image_grid_thw", "meta_datas", "image_sizes"}
    assert all(isinstance(entries, list) and len(entries) == 2 for entries in result.values())
    values, meta = result["pixel_values"][0], result["meta_datas"][0]
    height, width = result["image_sizes"][0]
    assert isinstance(values, np.ndarray) and values.dtype == np.float32
    assert values.shape == (3, height, width)
    assert result["image_grid_thw"][0] == (
        1,
        height // wrapper.patch_size,
        width // wrapper.patch_size,
    )
    assert meta["original_shape"] == {"height": 100, "width": 50}
    assert meta["image_shape"] == meta["padded_shape"] == {"height": height, "width": width}
    assert meta["scale_factor"] == (height / 100, width / 50)
    inner = wrapper.image_processor
    white = (1 - np.array(inner.image_mean)) / np.array(inner.image_std)
    assert np.abs(values - white[:, None, None]).max() < 1e-5


def test_encode_keeps_the_picture_and_passes_its_own_result(wrapper):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    encoded = wrapper.encode(pixels)
    assert (encoded.image == pixels).all() and encoded.original_size == (40, 60)
    assert wrapper.encode(encoded) is encoded


def test_patchify_takes_batches_lists_and_any_dtype(wrapper):
    factor = wrapper.patch_size * wrapper.merge_size
    pictures = torch.randn(2, 3, 2 * factor, 3 * factor)
    one_by_one = torch.cat([wrapper.patchify(picture) for picture in pictures])
    assert wrapper.patchify(pictures).equal(one_by_one)
    assert wrapper.patchify(list(pictures)).equal(one_by_one)
    assert wrapper.patchify([*pictures.numpy()]).equal(one_by_one)
    assert wrapper.patchify(pictures.bfloat16()).equal(one_by_one.bfloat16())


def test_patchify_refuses_sides_that_are_no_tokens(wrapper):
    with pytest.raises(ValueError, match="both sides must be multiples of"):
        wrapper.patchify(torch.zeros(3, 50, 56))


def test_the_processor_handed_over_is_not_changed(processor):
    before = copy.deepcopy(dict(getattr(processor, "image_processor", processor).size))
    QwenImageProcessorWrapper(processor, min_pixels=4096, max_pixels=8192)
    assert dict(getattr(processor, "image_processor", processor).size) == before


def test_pixel_limits_hold(processor):
    wrapper = QwenImageProcessorWrapper(processor, min_pixels=50_000, max_pixels=100_000)
    assert wrapper.pixel_limits == (50_000, 100_000)
    for size in [(1000, 700), (20, 30)]:
        height, width = wrapper.encode(np.zeros((*size, 3), np.uint8)).pixel_values.shape[1:]
        assert 50_000 <= height * width <= 100_000


def test_old_and_new_names_of_the_limits_are_read(processor):
    inner = copy.copy(getattr(processor, "image_processor", processor))
    for size in ({"shortest_edge": 4096, "longest_edge": 9999}, {"min_pixels": 4096}):
        inner.size, inner.min_pixels, inner.max_pixels = size, 4096, 9999
        assert QwenImageProcessorWrapper(inner).pixel_limits == (4096, 9999)


def test_limits_that_exclude_each_other_are_refused(processor):
    with pytest.raises(ValueError, match=r"min_pixels \(9000\) is above max_pixels \(5000\)"):
        QwenImageProcessorWrapper(processor, min_pixels=9000, max_pixels=5000)


@pytest.mark.parametrize("size", [(1, 201), (4020, 20)], ids=str)
def test_long_pictures_are_refused(wrapper, size):
    with pytest.raises(ValueError, match="an aspect ratio of 201; Qwen-VL reads up to 200"):
        wrapper.preprocess(np.zeros(size, np.uint8))


def test_no_image_at_all_is_refused(wrapper):
    with pytest.raises(ValueError, match="no image given"):
        wrapper.preprocess([])


def test_other_processors_are_refused():
    assert not QwenImageProcessorWrapper.recognises(object())
    with pytest.raises(TypeError, match="object is no processor of Qwen2-VL"):
        QwenImageProcessorWrapper(object())


def test_a_config_that_hands_over_a_unified_processor_gets_a_wrapper(data_dir):
    folder = str(data_dir / "qwen" / "Qwen2_5_VL")
    unified = dict(type=AutoProcessor.from_pretrained, pretrained_model_name_or_path=folder)
    by_name = dict(type="QwenImageProcessorWrapper", processor=folder, max_pixels=50_000)
    for config in (unified, by_name):
        built = IMAGE_PROCESSORS.build(ConfigDict(config))
        assert isinstance(built, QwenImageProcessorWrapper)
        assert IMAGE_PROCESSORS.build(built) is built
    assert built.pixel_limits == (3136, 50_000)
    assert not QwenImageProcessorWrapper.recognises(built)
