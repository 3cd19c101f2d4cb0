"""What tools/cache_features.py does with a config: fill the feature cache before a training.

In: a config with ``feature_cache``, and which of its data. Out: entries on disk for every picture
and phrase, computed by any number of processes, each with its share of the pictures. What is there
already is read and checked, not computed again: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.logging import MMLogger, print_log
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from flmm.distributed import init_processes
from flmm.features import FeatureCache
from flmm.features.budget import format_gb
from flmm.records import GroundingSample, ImageInput
from flmm.registry import DATASETS, MODELS
from flmm.training.feature_caching import open_cache, read_settings, tell_room, warn_of_redraws

SPLITS = ("train", "val", "test")


def fill_cache(config: Config, splits: Sequence[str] = ("train",)) -> FeatureCache:
    """Compute and keep what a training with this config will ask for.

    Args:
        config: as ``load_config`` gives it; no checkpoint is needed.
        splits: "train", "val", "test": the data sets of the config's loaders of these names.

    Returns:
        the cache.

    Raises:
        ValueError: the config has no ``feature_cache``, or no such data.
    """
    settings = _read_config(config, splits)
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
    entries = sum(len(folder) for folder in cache.folders)
    size = sum(folder.bytes_on_disk for folder in cache.folders)
    print_log(
        f"feature cache {cache.folder}: {entries:,} entries, {format_gb(size)}", logger="current"
    )
    return cache


def _fill_split(model: Any, split: str, dataset: Any, config: Config) -> None:
    """This process's share of a data set."""
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
            pictures = list(_list_pictures(items))
            if pictures:
                images = [image for image, _ in pictures]
                model.read_phrases(images, [sample.continuations for _, sample in pictures])
                if model.feature_cache.encodings is not None:
                    model.encode_images(images)
            bar.update(len(items))


def _list_pictures(items: list[dict[str, Any]]) -> Iterator[tuple[ImageInput, GroundingSample]]:
    """Pictures and samples; records that were skipped have none."""
    for item in items:
        if item["inputs"] is not None:
            yield item["inputs"], item["data_samples"]


def _build_autocast(config: Config, split: str, device: torch.device) -> torch.autocast:
    """The mixed precision that a training has and a validation has not."""
    wrapper = config.get("optim_wrapper") or {}
    is_mixed = split == "train" and "AmpOptimWrapper" in str(wrapper.get("type"))
    dtype = getattr(torch, str(wrapper.get("dtype", "")).removeprefix("torch."), None)
    if device.type == "cpu":
        dtype = torch.bfloat16  # as the runner does without a GPU
    return torch.autocast(device.type, dtype=dtype, enabled=is_mixed)


def _read_config(config: Config, splits: Sequence[str]) -> dict[str, Any]:
    """The settings of the cache; the data must be named too."""
    settings = read_settings(config)
    if settings is None:
        raise ValueError(
            f"{config.filename} has no feature_cache: add feature_cache=dict(dir='cache/features'),"
            " or give --cfg-options feature_cache.dir=cache/features"
        )
    missing = [split for split in splits if config.get(f"{split}_dataloader") is None]
    if missing:
        raise ValueError(f"{config.filename} has no {missing[0]}_dataloader to fill the cache from")
    return settings
