"""What heads are chosen on: a config's reader, and its data sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tqdm import tqdm

from flmm.readers import FrozenVLM
from flmm.registry import DATASETS, MODELS


def build_reader(config: Config, device: str | None = None) -> FrozenVLM:
    """The frozen reader of a config, without mask head and refiner; on a GPU where there is one."""
    init_default_scope("flmm")
    vlm: FrozenVLM = MODELS.build(config.model.model)
    return vlm.to(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))


def load_samples(
    config: Config, loader: str = "val", split: str | None = None, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """Items of the data set of a config's ``val_dataloader`` or ``test_dataloader``."""
    entry = config.get(f"{loader}_dataloader")
    if not entry:
        raise ValueError(f"{config.filename} has no {loader}_dataloader: choose another --loader")
    init_default_scope("flmm")
    cfg = {**entry.dataset, "bad_records": "skip"} | ({"split": split} if split else {})
    dataset = DATASETS.build(cfg)
    count = min(len(dataset), limit or len(dataset))
    items = (dataset[index] for index in range(count))
    return iter(tqdm(items, total=count, unit="image"))
