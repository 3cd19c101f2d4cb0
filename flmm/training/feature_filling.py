"""What tools/cache_features.py does with a config: fill the feature cache before a training.

In: a config with ``feature_cache``, and which of its data. Out: entries on disk for every picture
and phrase, computed by any number of processes, each with its share of the pictures. What is there
already is read and checked, not computed again: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from flmm.distributed import init_processes
from flmm.features import FeatureCache
from flmm.registry import DATASETS, MODELS
from flmm.training.feature_caching import open_cache, read_settings, tell_room, warn_of_redraws


def fill_cache(config: Config, splits: Sequence[str] = ("train",)) -> FeatureCache:
    """Compute and keep what a training with this config will ask for; no checkpoint is needed.

    Args:
        splits: "train", "val", "test": the data sets of the config's loaders of these names.

    Raises:
        ValueError: the config has no ``feature_cache``, or no such data.
    """
    settings = read_settings(config)
    if settings is None:
        raise ValueError(
            f"{config.filename} has no feature_cache: add feature_cache=dict(dir='cache/features'),"
            " or give --cfg-options feature_cache.dir=cache/features"
        )
    missing = [split for split in splits if config.get(f"{split}_dataloader") is None]
    if missing:
        raise ValueError(f"{config.filename} has no {missing[0]}_dataloader to fill the cache from")
    init_processes(config.launcher)
    MMLogger.get_instance("flmm", logger_name="flmm")
    init_default_scope("flmm")
    datasets = {split: DATASETS.build(config[f"{split}_dataloader"].dataset) for split in splits}
    model = MODELS.build(config.model)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    cache = open_cache(model, **settings)
    if dist.is_main_process():
        tell_room(cache)
        for dataset in datasets.values():
            warn_of_redraws(dataset)
    for split, dataset in datasets.items():
        _fill_split(model, split, dataset, config)
    dist.barrier()
    tell_room(cache)
    return cache


def _fill_split(model: Any, split: str, dataset: Any, config: Config) -> None:
    """This process's share of a data set; records that were skipped have no picture."""
    rank, world_size = dist.get_dist_info()
    share = range(rank, len(dataset), world_size)
    loader = config[f"{split}_dataloader"]
    batches = DataLoader(
        Subset(dataset, share),
        batch_size=loader.get("batch_size", 1),
        num_workers=loader.get("num_workers", 0),
        collate_fn=list,
    )
    bar = tqdm(total=len(share), desc=split, unit="image", disable=rank != 0)
    device = next(model.parameters()).device
    with bar, _build_autocast(config, split, device):
        for items in batches:
            usable = [item for item in items if item["inputs"] is not None]
            if usable:
                images = [item["inputs"] for item in usable]
                model.read_phrases(images, [item["data_samples"].continuations for item in usable])
                if model.feature_cache.encodings is not None:
                    model.encode_images(images)
            bar.update(len(items))


def _build_autocast(config: Config, split: str, device: torch.device) -> torch.autocast:
    """The mixed precision that a training has and a validation has not."""
    wrapper = config.get("optim_wrapper") or {}
    is_mixed = split == "train" and "AmpOptimWrapper" in str(wrapper.get("type"))
    dtype = getattr(torch, str(wrapper.get("dtype", "")).removeprefix("torch."), None)
    if device.type == "cpu":
        dtype = torch.bfloat16  # as the runner does without a GPU
    return torch.autocast(device.type, dtype=dtype, enabled=is_mixed)
