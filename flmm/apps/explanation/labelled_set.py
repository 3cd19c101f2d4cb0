"""Reader and labelled pictures of a config, for ranking heads.

In: a config. Out: its frozen reader alone, and the items of one of its data sets.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tqdm import tqdm

from flmm.registry import DATASETS, MODELS

if TYPE_CHECKING:
    from flmm.readers.base import FrozenVLM


def build_reader(config: Config, device: str | None = None) -> FrozenVLM:
    """The frozen reader of a config, without mask head and refiner.

    Args:
        config: of a grounder.
        device: ``None``: a GPU where there is one.
    """
    init_default_scope("flmm")
    vlm: FrozenVLM = MODELS.build(config.model.model)
    return vlm.to(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))


def load_samples(
    config: Config, loader: str = "val", split: str | None = None, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """Items of the data set of a config's ``val_dataloader`` or ``test_dataloader``.

    Args:
        config: with such a data set.
        loader: "val" or "test".
        split: of it; ``None``: as the config says.
        limit: only the first so many pictures.

    Raises:
        ValueError: the config has no such loader.
        FileNotFoundError: the data set is not there.
    """
    entry = config.get(f"{loader}_dataloader")
    if not entry:
        raise ValueError(f"{config.filename} has no {loader}_dataloader: choose another --loader")
    init_default_scope("flmm")
    cfg = {**copy.deepcopy(entry.dataset), "bad_records": "skip"}
    if split is not None:
        cfg["split"] = split
    dataset = DATASETS.build(cfg)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    items = (dataset[index] for index in range(count))
    return iter(tqdm(items, total=count, unit="image"))


__all__ = ["build_reader", "load_samples"]
