"""A training that computes frozen features once: opens the cache and tells its size.

In: the config key ``feature_cache`` and a runner. Out: the runner's grounder asks the cache before
it lets a frozen model work. What is kept and how is the features room's duty.
"""

from __future__ import annotations

import logging
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import nn

from flmm.data.grounding_dataset import list_datasets
from flmm.features import FeatureCache
from flmm.features.entries import format_gb, measure_files
from flmm.files import measure_free
from flmm.registry import HOOKS

SETTINGS = ("dir", "dtype", "max_gb", "image_embedding")


@HOOKS.register_module()
class FeatureCacheHook(Hook):
    """Keeps the frozen models' features on disk; a config asks for it with ``feature_cache``.

    Training and validation both read and write; what is computed is there at once, also for others.

    Args:
        **settings: of :func:`open_cache`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def before_train(self, runner: Any) -> None:
        """Open the cache and say what is in it."""
        self.cache = open_cache(runner.model, **self.settings)
        self._epoch = runner.train_loop.stream.epoch
        if is_main_process():
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
    """Open a cache for a grounder, which asks it from now on.

    Args:
        model: a grounder, maybe wrapped for several processes.
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
    grounder.feature_cache = FeatureCache(dir, grounder.vlm, refiner, **settings)
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
