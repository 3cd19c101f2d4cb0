"""A training that computes frozen features once, and the tool that fills the cache before it.

What is kept and how is the features room's duty.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger, print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from flmm.data.grounding_dataset import list_datasets
from flmm.distributed import init_processes
from flmm.features import FeatureCache
from flmm.features.entries import format_gb, measure_files
from flmm.files import measure_free
from flmm.registry import DATASETS, HOOKS, MODELS

SETTINGS = ("dir", "dtype", "max_gb", "image_embedding")


@HOOKS.register_module()
class FeatureCacheHook(Hook):
    """Keeps the frozen models' features on disk; a config asks for it with ``feature_cache``.

    Training and validation both read and write; settings are those of :func:`open_cache`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def before_train(self, runner: Any) -> None:
        """Open the cache and say what is in it."""
        self.cache = open_cache(runner.model, **self.settings)
        self._epoch = runner.train_loop.stream.epoch
        if dist.is_main_process():
            tell_room(self.cache)
            warn_of_redraws(runner.train_dataloader.dataset)

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Where the data begin anew, write again if somebody has made room."""
        epoch = runner.train_loop.stream.epoch
        if epoch != self._epoch:
            self._epoch = epoch
            self.cache.budget.reopen()


def read_settings(config: Config) -> dict[str, Any] | None:
    """The config's ``feature_cache``, or ``None``.

    Raises:
        ValueError: it has no ``dir``, or a key that is none of :func:`open_cache`'s.
    """
    settings = config.get("feature_cache")
    if settings is None:
        return None
    # Of older configs: entries were gathered in files of that size.
    settings = {key: value for key, value in settings.items() if key != "shard_mb"}
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown or "dir" not in settings:
        fault = f"does not know {unknown[0]!r}" if unknown else "has no dir"
        raise ValueError(f"feature_cache {fault}: its keys are {', '.join(SETTINGS)}")
    return settings


def open_cache(
    model: nn.Module, dir: str, image_embedding: bool = True, **settings: Any
) -> FeatureCache:
    """Open a cache for a grounder (maybe in DDP), which asks it from now on.

    Args:
        dir: folder of the cache, shared by processes and trainings.
        image_embedding: keep the refiner's image encodings, where there is a refiner.
        **settings: ``dtype`` ("float16", or "float32": exact) and ``max_gb``, the folder's limit
            in 10**9 bytes.

    Raises:
        TypeError: the model is no grounder.
        ValueError: a setting has an impossible value.
    """
    grounder: Any = model.module if is_model_wrapper(model) else model
    if not hasattr(grounder, "feature_cache"):
        raise TypeError(
            f"feature_cache keeps what a Grounder's frozen models compute, but the model is a "
            f"{type(grounder).__name__}: leave feature_cache out of the config"
        )
    refiner = grounder.sam if image_embedding else None
    grounder.feature_cache = FeatureCache(
        dir, grounder.vlm, refiner, layers=grounder.layers, **settings
    )
    return grounder.feature_cache


def tell_room(cache: FeatureCache) -> None:
    """Log what is there, and what room there is."""
    there = sum(folder.bytes_on_disk for folder in cache.folders)
    entries = sum(len(folder) for folder in cache.folders)
    used, free = measure_files(cache.folder), measure_free(cache.folder)
    print_log(
        f"feature cache {cache.folder}: {format_gb(there)} of these settings are there already "
        f"({entries:,} entries), {format_gb(max(0, used - there))} of others. The disk has "
        f"{format_gb(free)} free, max_gb is {cache.budget.max_bytes / 10**9:g}",
        logger="current",
    )


def warn_of_redraws(dataset: Any) -> None:
    """Say what to set where every epoch asks other phrases, which no cache can know."""
    for item in list_datasets(dataset):
        reasons = [
            f"{name}={getattr(item, name)!r}"
            for name in ("max_expressions", "max_phrases")
            if getattr(item, name, None) is not None
        ]
        if getattr(item, "text_mode", None) == "random":
            reasons.insert(0, "text_mode='random'")
        if reasons and getattr(item, "redraw", False):
            print_log(
                f"feature cache: the training data set draws other phrases in every epoch "
                f"({', '.join(reasons)}), and later epochs find in the cache only what was asked "
                "before: set redraw=False in train_dataloader.dataset (one draw for all epochs), "
                "or fill the cache with every sentence first (docs/feature_cache.md)",
                logger="current",
                level=logging.WARNING,
            )


def fill_cache(config: Config, splits: Sequence[str] = ("train",)) -> FeatureCache:
    """Compute and keep what a training with this config will ask for; no checkpoint is needed.

    Each process does its share of the pictures. What is there already is read and checked, not
    computed again: an interrupted run goes on where it stopped.

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
