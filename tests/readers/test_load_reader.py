"""One door for every family: a folder in, its reader out; its pictures made ready without it."""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader
from transformers.models.smolvlm import processing_smolvlm

from flmm import load_reader
from flmm.readers import FrozenQwen, FrozenVLM, ImageProcessorWrapper
from flmm.readers.check import check_reader
from flmm.registry import IMAGE_PROCESSORS, MODELS
from tests.readers.conftest import mark_heavy
from tests.small_models import build_small_model, load_processor, save_small_folder


@pytest.fixture(scope="module", params=["qwen3_vl", "llava_next", mark_heavy("internvl", True)])
def folder(request, data_dir, tmp_path_factory):
    return save_small_folder(data_dir, request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def reader(folder):
    return load_reader(folder, dtype="float32")


def test_a_folder_is_enough(folder, reader, noise):
    assert isinstance(reader, FrozenVLM)
    is_qwen = reader.model.config.model_type.startswith("qwen")
    assert isinstance(reader, FrozenQwen) == is_qwen
    again = MODELS.build({"type": "FrozenVLM", "name_or_path": folder, "dtype": "float32"})
    picture = noise(90, 130)
    seen, other = (item.attend(item.prefill(picture), ["a dog"]) for item in (reader, again))
    assert [maps.shape for maps in seen.grid_maps] == [
        (1, reader.num_maps, *grid.size) for grid in reader.prefill(picture).grids
    ]
    assert all(map(torch.equal, seen.grid_maps, other.grid_maps))
    assert reader.num_channels == reader.num_maps * reader.num_grids


def test_smolvlm_takes_num2words_for_a_video_alone(data_dir, tmp_path, monkeypatch):
    save_small_folder(data_dir, "smolvlm", tmp_path)
    monkeypatch.setattr(processing_smolvlm, "num2words", None)  # as where it is not installed
    reader = load_reader(tmp_path, dtype="float32")
    with pytest.raises(ImportError, match="takes a video with the package num2words: install it"):
        processing_smolvlm.num2words(8)
    assert reader.processor.image_token == "<image>"


def test_layouts_read_the_options_of_pictures(data_dir, tmp_path, noise):
    """LLaVA as F-LMM shows it pictures: padded, though the published processor crops."""
    folder, options = save_small_folder(data_dir, "llava_cropped", tmp_path), {"do_pad": True}
    reader = FrozenVLM(folder, dtype="float32", image_options=options)
    picture = noise(90, 130)
    padded = load_processor(data_dir, "llava_padded")
    expected = FrozenVLM.from_model(reader.model, padded).image_processor.encode(picture)
    for encode in (reader.image_processor.encode, ImageProcessorWrapper(folder, **options).encode):
        encoded = encode(picture)
        assert encoded.pixel_values.equal(expected.pixel_values)
        assert encoded.grids[0].box == expected.grids[0].box == (0, -20, 130, 110)
    assert not check_reader(reader, picture)["problems"]


def test_a_loaders_worker_makes_pictures_ready(folder, reader, noise):
    config = {"type": "ImageProcessorWrapper", "name_or_path": folder}
    processor = pickle.loads(pickle.dumps(IMAGE_PROCESSORS.build(config)))
    assert isinstance(processor, ImageProcessorWrapper)
    pictures = [noise(90, 130), noise(200, 60)]
    loader = DataLoader(pictures, None, num_workers=1, collate_fn=processor.encode)
    for picture, encoded in zip(pictures, loader):
        own = reader.image_processor.encode(picture)
        assert encoded.token_ids.equal(own.token_ids)
        assert [(grid.size, grid.box) for grid in encoded.grids] == [
            (grid.size, grid.box) for grid in own.grids
        ]
        prefixes = [reader.prefill(item) for item in (encoded, own)]
        torch.testing.assert_close(*(item.last_hidden_state for item in prefixes))


def test_a_picture_of_another_family_is_told(reader, noise):
    encoded = reader.image_processor.encode(noise(60, 60))
    encoded.token_ids = torch.zeros_like(encoded.token_ids)
    with pytest.raises(ValueError, match="encode it with this model's own processor"):
        reader.prefill(encoded)


@torch.no_grad()
def test_layers_that_look_through_a_window_see_as_far_as_their_own(data_dir, noise):
    kinds = ["sliding_attention", "full_attention"] * 2
    window = {"layer_types": kinds, "use_sliding_window": True, "sliding_window": 12}
    model = build_small_model(data_dir, "internvl", **window)
    reader = FrozenVLM.from_model(model, load_processor(data_dir, "internvl"))
    prefix = reader.prefill(noise(130, 70))
    assert len(prefix) > 2 * 12
    seen = reader.attend(prefix, ["a red cup", "the tall man behind the second table"])
    model.set_attn_implementation("eager")
    for index, own in enumerate(seen.input_ids):
        ids = torch.cat([prefix.input_ids, own])[None]
        pictures = reader.collate([prefix.image_input])
        layers = model.model(input_ids=ids, **pictures, output_attentions=True).attentions
        rows = torch.cat([layer[0, :, len(prefix) :].mean(1) for layer in layers])
        for maps, grid in zip(seen.grid_maps, prefix.grids):
            torch.testing.assert_close(maps[index], rows[:, grid.columns], rtol=1e-4, atol=1e-6)
    assert not seen.maps[:, : reader.num_heads].all()  # out of the window
