"""A head with a refiner of transformers, whose weights are named, found and compared."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from flmm import GroundingInferencer
from flmm.config import load_config
from flmm.registry import MODELS
from flmm.sharing import load_pretrained, save_pretrained
from tests.masks.sam_configs import SAM2, SAM_HQ

SCENE = Path(__file__).parents[2] / "docs/images/scene.png"
PHRASES = ["the red triangle"]
KINDS = {"Sam2Refiner": ("Sam2", SAM2), "SamHQRefiner": ("SamHQ", SAM_HQ)}


@pytest.fixture(scope="module", params=KINDS)
def shared(request, tmp_path_factory) -> tuple[Path, Path, np.ndarray]:
    """Head, refiner's folder, and probabilities of the grounder that was shared."""
    folder = tmp_path_factory.mktemp("refiner")
    name, settings = KINDS[request.param]
    kind = getattr(transformers, f"{name}Model")
    torch.manual_seed(0)
    kind(kind.config_class(**settings)).save_pretrained(folder / "a-sam")
    config = load_config("tiny")
    config.model.sam = dict(type=request.param, name_or_path=str(folder / "a-sam"))
    inferencer = GroundingInferencer.from_model(MODELS.build(config.model))
    save_pretrained(inferencer.model, config, folder / "head")
    return folder / "head", folder / "a-sam", ground(inferencer)


def ground(inferencer: GroundingInferencer) -> np.ndarray:
    return inferencer(SCENE, PHRASES, return_probs=True).probs


def test_it_is_found_by_its_name(shared, tmp_path, monkeypatch):
    head, sam, probs = shared
    text = (head / "config.json").read_text()
    record = json.loads(text)["refiner"]
    assert (record["source"], record["name"]) == ("folder", "a-sam")
    assert record["weights_hash"] and str(sam.parent) not in text
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"folder a-sam is neither here .*name_or_path"):
        load_pretrained(head)
    Path("checkpoints").mkdir()
    Path("checkpoints/a-sam").symlink_to(sam)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = load_pretrained(head)
    assert config.model.sam.name_or_path == "checkpoints/a-sam"
    found = GroundingInferencer.from_pretrained(head, device="cpu")
    assert probs.std() > 0 and np.array_equal(ground(found), probs)


def test_other_weights_are_told(shared, tmp_path):
    head, sam, _ = shared
    other = Path(shutil.copytree(sam, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    changed = {key: value + 1 for key, value in weights.items()}
    save_file(changed, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"refiner .*other: its weights differ from those of"):
        load_pretrained(head, cfg_options={"model.sam.name_or_path": str(other)})
