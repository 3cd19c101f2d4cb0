"""A head behind a reader of another family: the same door, records and masks."""

import json

import numpy as np
import pytest
import torch

from flmm import GroundingInferencer
from flmm.config import load_config
from flmm.registry import MODELS
from flmm.sharing import load_pretrained, save_pretrained
from tests.sharing.test_sharing import PHRASES, SCENE, change
from tests.small_models import save_small_folder


@pytest.mark.parametrize(
    ("family", "grids"), [("llava_padded", 1), ("llava_next", 2), ("qwen3_5", 1)]
)
def test_it_is_shared_and_found_again(data_dir, tmp_path, family, grids):
    reader = save_small_folder(data_dir, family, tmp_path / "Small-Reader")
    config = load_config("tiny")
    config.model.model = dict(type="FrozenVLM", name_or_path=str(reader), dtype="float32")
    torch.manual_seed(0)
    here = GroundingInferencer.from_model(MODELS.build(config.model))
    head = save_pretrained(here.model, config, tmp_path / "head")
    sizes = json.loads((head / "config.json").read_text())["reader"]["sizes"]
    assert sizes.get("num_grids", 1) == grids
    channels = sizes["num_layers"] * sizes["num_heads"] * grids
    assert here.model.mask_head.state_dict()["encoder.0.0.convs.0.conv.weight"].shape[1] == channels
    options = {"reader": str(reader)}
    there = GroundingInferencer.from_pretrained(head, device="cpu", cfg_options=options)
    probs, again = (
        inferencer(SCENE, PHRASES, return_probs=True).probs for inferencer in (here, there)
    )
    assert probs.std() > 0 and np.array_equal(probs, again)
    change(head, lambda record: record["reader"]["sizes"].update(num_grids=3))
    with pytest.raises(ValueError, match=r"layers x \d heads x 3 grids.*but .*Small-Reader has"):
        load_pretrained(head, cfg_options=options)


def test_options_of_pictures_are_bounded(data_dir, tmp_path):
    reader = save_small_folder(data_dir, "llava_padded", tmp_path / "Small-Reader")
    config = load_config("tiny")
    options = {"size": {"shortest_edge": 10**9}}
    model = dict(type="FrozenVLM", name_or_path=str(reader), dtype="float32")
    config.model.model = model
    built = MODELS.build(config.model)
    config.model.model = {**model, "image_options": options}
    with pytest.raises(ValueError, match=r"shortest_edge is 1000000000, not in 0\.\.16384"):
        save_pretrained(built, config, tmp_path / "head")
