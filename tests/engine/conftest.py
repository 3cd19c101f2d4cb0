"""A toy grounder on synthetic scenes: small enough for real runs of mmengine's loops."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from flmm.datasets.shape_files import write_dataset
from flmm.registry import IMAGE_PROCESSORS, MODELS
from flmm.structures import GroundingSample, ImageInput
from tests.toy_image_processor import ToyImageProcessor

CONFIG = """
_base_ = ["{configs}/_base_/datasets/shapes.py", "{configs}/_base_/schedules/adamw_tiny.py",
          "{configs}/_base_/default_runtime.py"]
model = dict(type="ToyGrounder")
dataset = dict(image_processor=dict(_delete_=True, type="{processor}"))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dataset)
val_dataloader = dict(num_workers=0, dataset=dataset)
test_dataloader = dict(num_workers=0, dataset=dataset)
train_cfg = dict(max_iters=6, val_interval=3)
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=6)]
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
"""
CONFIGS = Path(__file__).parents[2] / "configs"


class ToyGrounder(BaseModel):
    """One weight per colour channel; the same mask for every phrase of an image."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.head = nn.Conv2d(width, 1, 1)

    def forward(
        self,
        inputs: list[ImageInput],
        data_samples: list[GroundingSample] | None = None,
        mode: str = "tensor",
    ) -> Any:
        logits = [self.head(item.pixel_values)[0] for item in inputs]
        if mode == "loss":
            losses = [
                nn.functional.binary_cross_entropy_with_logits(
                    one.float().expand(sample.gt_masks.shape), sample.gt_masks.float()
                )
                for one, sample in zip(logits, data_samples)
            ]
            return {"loss_mask": torch.stack(losses).mean()}
        for one, sample in zip(logits, data_samples):
            sample.pred_masks = (one > 0).expand(sample.gt_masks.shape)
            sample.coarse_masks = (one > 1).expand(sample.gt_masks.shape)
        return data_samples


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_dataset(folder, num_images=12, seed=0)
    return folder


@pytest.fixture
def toy_config(tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Path of a config that trains the toy grounder for six iterations; cwd is its folder."""
    MODELS.register_module(module=ToyGrounder, force=True)
    IMAGE_PROCESSORS.register_module(module=ToyImageProcessor, force=True)
    monkeypatch.setenv("FLMM_DATA_ROOT", str(scenes))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "toy.py"
    path.write_text(CONFIG.format(configs=CONFIGS, processor="ToyImageProcessor"))
    yield path
    MODELS.module_dict.pop("ToyGrounder")
    IMAGE_PROCESSORS.module_dict.pop("ToyImageProcessor")


@pytest.fixture
def toy_model() -> ToyGrounder:
    torch.manual_seed(0)
    return ToyGrounder()
