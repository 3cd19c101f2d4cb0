"""A toy grounder and its config: small enough for many real runs of the training loops.

Importable by configs (``custom_imports``), so that processes started by a test know it too.
"""

import itertools
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn

from flmm.config import load_config
from flmm.records import GroundingSample, ImageInput
from flmm.registry import IMAGE_PROCESSORS, METRICS, MODELS
from flmm.training.grounding_runner import GroundingRunner
from flmm.training.runner import run_training
from tests.toy_image_processor import ToyImageProcessor

CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG = f"""
_base_ = ["{CONFIGS}/_base_/datasets/shapes.py", "{CONFIGS}/_base_/schedules/adamw_tiny.py",
          "{CONFIGS}/_base_/default_runtime.py"]
custom_imports = dict(imports=["tests.training.toy_training"])
model = dict(type="ToyGrounder")
dataset = dict(image_processor=dict(_delete_=True, type="ToyImageProcessor"), serialize_data=False)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dataset)
val_dataloader = dict(num_workers=0, dataset=dataset)
test_dataloader = dict(num_workers=0, dataset=dataset)
train_cfg = dict(max_iters=6, val_interval=3)
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=6)]
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1), examples=dict(count=0))
"""
RUNS = itertools.count()

IMAGE_PROCESSORS.register_module(module=ToyImageProcessor, force=True)


@MODELS.register_module(force=True)
class ToyGrounder(BaseModel):
    """One weight per colour channel; the same mask for every phrase of an image.

    Args:
        width: channels.
        noise: how much the loss depends on what Python, numpy and torch draw.
    """

    def __init__(self, width: int = 3, noise: float = 0.0) -> None:
        super().__init__()
        self.head = nn.Conv2d(width, 1, 1)
        self.noise = noise

    def forward(
        self,
        inputs: list[ImageInput],
        data_samples: list[GroundingSample] | None = None,
        mode: str = "tensor",
    ) -> Any:
        logits = [self.head(item.pixel_values)[0] for item in inputs]
        if mode == "loss":
            trace([sample.image_id for sample in data_samples])
            drawn = random.random() + np.random.rand() + torch.rand(())
            losses = [
                nn.functional.binary_cross_entropy_with_logits(
                    one.float().expand(sample.gt_masks.shape), sample.gt_masks.float()
                )
                for one, sample in zip(logits, data_samples)
            ]
            return {"loss_mask": torch.stack(losses).mean() * (1 + self.noise * drawn)}
        for one, sample in zip(logits, data_samples):
            sample.pred_masks = (one > 0).expand(sample.gt_masks.shape)
            sample.coarse_masks = (one > 1).expand(sample.gt_masks.shape)
        return data_samples


@METRICS.register_module(force=True)
class CountingMetric(BaseMetric):
    """Gets better by one each time, or worse where the name says so."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        self.calls += 1
        return {"better": float(self.calls), "worse": -float(self.calls)}


def trace(image_ids: list[int]) -> None:
    """Note what this process trains on, where ``TOY_TRACE`` names a folder, and rest."""
    time.sleep(float(os.environ.get("TOY_PAUSE", "0")))
    folder = os.environ.get("TOY_TRACE")
    if folder:
        with open(Path(folder) / f"{get_rank()}.txt", "a") as file:
            file.writelines(f"{image_id}\n" for image_id in image_ids)


def train(config: Path, work_dir: str, options: dict[str, Any], **kwargs: Any) -> GroundingRunner:
    """Train in this process; ``options`` without a dot replace what the config says."""
    loaded = load_config(config, work_dir=work_dir)
    # mmengine keeps logs and visualizers by name and second, across the runs of one process.
    loaded.experiment_name = f"run{next(RUNS)}"
    for key, value in options.items():
        if "." not in key:
            loaded[key] = value
        else:
            loaded.merge_from_dict({key: value})
    return run_training(loaded, **kwargs)


def read_logs(work_dir: str) -> str:
    """All that runs in a work folder have logged."""
    return "".join(path.read_text() for path in sorted(Path(work_dir).glob("*/*.log")))
