"""SAM 2.1 and SAM-HQ where SAM stood: the toy grounder trains, predicts and caches with each."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from flmm.features import FeatureCache
from flmm.registry import MODELS
from flmm.toy.shape_files import write_dataset
from tests.features.conftest import TINY, batch, messages  # noqa: F401
from tests.masks.sam_configs import SAM2, SAM_HQ
from tests.training.toy_training import train

REFINERS = {"Sam2Refiner": SAM2, "SamHQRefiner": SAM_HQ}


def build(kind):
    torch.manual_seed(0)
    config = Config.fromfile(TINY).model
    config.sam = dict(type=kind, random_init=REFINERS[kind])
    return MODELS.build(config)


@pytest.mark.parametrize("kind", REFINERS)
def test_it_trains_and_its_encodings_are_found_again(kind, batch, tmp_path, messages):  # noqa: F811
    grounder = build(kind)
    calls = Counter()
    grounder.sam.sam.vision_encoder.register_forward_hook(lambda *_: calls.update(["encode"]))
    wanted = grounder(*batch, mode="loss")
    wanted["refined_loss_mask"].backward()
    touched = {name for name, weight in grounder.named_parameters() if weight.grad is not None}
    assert {"text_proj.weight", "sam.sam.mask_decoder.iou_token.weight"} <= touched
    assert not any("vision_encoder" in name for name in touched)
    assert not any("vision_encoder" in name for name in grounder.state_dict())
    grounder.feature_cache = FeatureCache(tmp_path, grounder.vlm, grounder.sam, "float32")
    before = calls["encode"]
    for _ in range(2):
        found = grounder(*batch, mode="loss")
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert calls["encode"] == before + 1 and len(grounder.feature_cache.encodings) == 2
    for sample in grounder(*batch, mode="predict"):
        assert sample.pred_masks.shape == sample.gt_masks.shape
    half = FeatureCache(tmp_path, grounder.vlm, grounder.sam, "float16")
    grounder.feature_cache = half
    for _ in range(2):
        found = grounder(*batch, mode="loss")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-3)
    assert not messages


def test_a_run_trains_and_evaluates_with_it(tmp_path, monkeypatch):
    write_dataset(tmp_path / "shapes", num_images=10, seed=3)
    monkeypatch.setenv("FLMM_DATA_ROOT", str(tmp_path / "shapes"))
    path = tmp_path / "short.py"
    path.write_text(f"""
_base_ = ["{Path(TINY).absolute()}"]
model = dict(sam=dict(_delete_=True, type="Sam2Refiner", random_init={SAM2}))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)
train_cfg = dict(max_iters=2, val_interval=2)
""")
    train(path, str(tmp_path / "work"), {})
    checkpoint = torch.load(tmp_path / "work/iter_2.pth", weights_only=False)["state_dict"]
    assert any(name.startswith("sam.sam.mask_decoder.") for name in checkpoint)
    assert not any("vision_encoder" in name for name in checkpoint)
