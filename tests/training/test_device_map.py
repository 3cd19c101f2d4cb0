"""A reader that transformers spreads over devices (here memory and disk) stays where it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as torch_dist
from mmengine.model import MMDistributedDataParallel

from flmm.checkpoints.checkpoint import load_checkpoint
from flmm.config import load_config
from flmm.registry import DATASETS, MODELS
from flmm.toy.shape_files import write_dataset
from flmm.training.runner import run_training
from tests.training.toy_training import CONFIGS

OPTIONS = {
    "train_dataloader.batch_size": 1,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_cfg.max_iters": 1,
    "val_cfg": None,
    "val_dataloader": None,
    "val_evaluator": None,
}


@pytest.fixture
def config(tmp_path: Path) -> Any:
    write_dataset(tmp_path / "shapes", num_images=4, seed=3)
    options = {**OPTIONS, "data_root": str(tmp_path / "shapes")}
    return load_config(CONFIGS / "tiny/tiny_unet_sam_shapes.py", options)


def spread(layers: int) -> dict[str, str]:
    """Half of the layers on the disk, all else in memory."""
    language = "model.language_model"
    names = [
        "model.visual",
        "lm_head",
        *(f"{language}.{part}" for part in ("embed_tokens", "norm")),
    ]
    halves = {f"{language}.layers.{i}": "cpu" if i % 2 else "disk" for i in range(layers)}
    return {**dict.fromkeys([*names, f"{language}.rotary_emb"], "cpu"), **halves}


def list_devices(model: Any) -> set[str]:
    return {weight.device.type for weight in model.vlm.model.parameters()}


def test_training_with_a_spread_reader_is_the_same_training(config: Any, tmp_path: Path) -> None:
    config.work_dir = str(tmp_path / "whole")
    layers = run_training(config).model.vlm.num_layers
    config.work_dir = str(tmp_path / "spread")
    config.model.model.device_map = spread(layers)
    model = run_training(config).model
    assert list_devices(model) == {"cpu", "meta"}
    one, other = (
        load_checkpoint(tmp_path / folder / "iter_1.pth")["state_dict"]
        for folder in ("whole", "spread")
    )
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key])


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch_dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch_dist.destroy_process_group()


def test_several_processes_do_not_touch_a_spread_reader(config: Any, process_group: None) -> None:
    layers = MODELS.build(config.model).vlm.num_layers
    config.model.model.device_map = spread(layers)
    model = MODELS.build(config.model)
    model.to("cpu").double().float()
    assert list_devices(model) == {"cpu", "meta"}
    assert model.vlm.dtype == torch.float32
    wrapped = MMDistributedDataParallel(model)
    sample = DATASETS.build(config.train_dataloader.dataset)[0]
    losses = wrapped([sample["inputs"]], [sample["data_samples"]], mode="loss")
    losses["loss_mask"].backward()
    assert model.mask_head.conv_seg.weight.grad.any()
