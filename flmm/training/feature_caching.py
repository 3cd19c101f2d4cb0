"""A training that computes frozen features once: opens the cache, tells its size, writes it.

In: the config key ``feature_cache`` and a runner. Out: the runner's grounder asks the cache before
it lets a frozen model work. What a process holds in memory is written at the end of each epoch, and
when the training ends, however it ends. What is kept and how is the features room's duty.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import nn

from flmm.data.sampler import list_datasets
from flmm.features import FeatureCache
from flmm.features.budget import format_gb
from flmm.registry import HOOKS

SETTINGS = ("dir", "dtype", "max_gb", "image_embedding", "shard_mb")
SAMPLES_MEASURED = 8


@HOOKS.register_module()
class FeatureCacheHook(Hook):
    """Keeps the frozen models' features on disk; a config asks for it with ``feature_cache``.

    Training and validation both read and write.

    Args:
        dir: folder of the cache, shared by processes and trainings.
        dtype: "float16" or "float32" (exact).
        max_gb: limit of the folder, in 10**9 bytes.
        image_embedding: keep SAM's image embeddings too.
        shard_mb: a file is written for every so many 10**6 bytes.
    """

    def __init__(
        self,
        dir: str,
        dtype: str = "float16",
        max_gb: float = 200.0,
        image_embedding: bool = True,
        shard_mb: float = 64.0,
    ) -> None:
        self.settings: dict[str, Any] = {
            "dir": dir,
            "dtype": dtype,
            "max_gb": max_gb,
            "image_embedding": image_embedding,
            "shard_mb": shard_mb,
        }
        self.cache: FeatureCache | None = None
        self._epoch = 0

    def before_train(self, runner: Any) -> None:
        """Open the cache and say what this training will need.

        Raises:
            TypeError: the model is no grounder.
            ValueError: a setting has an impossible value.
        """
        self.cache = open_cache(runner.model, **self.settings)
        self._epoch = runner.train_loop.stream.epoch
        if not is_main_process():
            return
        datasets = {"training": runner.train_dataloader.dataset}
        if runner.val_loop is not None:
            datasets["validation"] = runner.val_loop.dataloader.dataset
        tell_need(self.cache, datasets)
        warn_of_redraws(runner.train_dataloader.dataset)

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Where the data begin anew, share what every process has computed."""
        epoch = runner.train_loop.stream.epoch
        if self.cache is not None and epoch != self._epoch:
            self._epoch = epoch
            self.cache.flush()
            barrier()
            self.cache.refresh()

    def after_train_epoch(self, runner: Any) -> None:
        """Write what is in memory."""
        self.flush()

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write what is in memory."""
        self.flush()

    def flush(self) -> None:
        """Write what is in memory."""
        if self.cache is not None:
            self.cache.flush()


@contextmanager
def caching_features(runner: Any) -> Iterator[None]:
    """Add :class:`FeatureCacheHook` where the runner's config has ``feature_cache``.

    However the body ends, what is in memory is written.

    Raises:
        ValueError: ``feature_cache`` has an unknown key, or no ``dir``.
    """
    settings = read_settings(runner.cfg)
    if settings is None:
        yield
        return
    hook = FeatureCacheHook(**settings)
    runner.register_hook(hook)
    try:
        yield
    finally:
        hook.flush()


def read_settings(config: Config) -> dict[str, Any] | None:
    """The config's ``feature_cache``, or ``None``.

    Raises:
        ValueError: it has no ``dir``, or a key that is none of :class:`FeatureCacheHook`'s.
    """
    settings = config.get("feature_cache")
    if settings is None:
        return None
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown or "dir" not in settings:
        fault = f"does not know {unknown[0]!r}" if unknown else "has no dir"
        raise ValueError(f"feature_cache {fault}: its keys are {', '.join(SETTINGS)}")
    return dict(settings)


def open_cache(
    model: nn.Module, dir: str, image_embedding: bool = True, **settings: Any
) -> FeatureCache:
    """Open a cache for a grounder, which asks it from now on.

    Args:
        model: a grounder, maybe wrapped for several processes.
        dir: folder of the cache.
        image_embedding: keep the refiner's image embeddings, where there is a refiner.
        **settings: of :class:`FeatureCache`.

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


def estimate_need(cache: FeatureCache, dataset: Any) -> int:
    """About how many bytes one pass through a data set needs, from a few of its samples."""
    count = min(SAMPLES_MEASURED, len(dataset))
    sizes = []
    for index in np.linspace(0, len(dataset) - 1, count).round().astype(int):
        item = dataset[int(index)]
        if item["inputs"] is not None:  # a record that was skipped
            sizes.append(cache.predict_bytes(item["inputs"], item["data_samples"].continuations))
    return round(sum(sizes) / max(1, len(sizes)) * len(dataset))


def tell_need(cache: FeatureCache, datasets: dict[str, Any]) -> None:
    """Log what data sets will need, what is there already, and what room there is.

    Args:
        cache: an open one.
        datasets: by what the message calls them.
    """
    needs = {name: estimate_need(cache, dataset) for name, dataset in datasets.items()}
    there = sum(folder.bytes_on_disk for folder in cache.folders)
    entries = sum(len(folder) for folder in cache.folders)
    used, free = cache.budget.measure_used(), cache.budget.measure_free()
    parts = ", ".join(f"{name} about {format_gb(size)}" for name, size in needs.items())
    print_log(
        f"feature cache {cache.folder}: {parts}; {format_gb(there)} of these settings are there "
        f"already ({entries:,} entries), {format_gb(max(0, used - there))} of others. The disk has "
        f"{format_gb(free)} free, max_gb is {cache.budget.max_bytes / 10**9:g}",
        logger="current",
    )
    lacking = max(0, sum(needs.values()) - there)
    room = cache.budget.measure_room()
    if lacking > room:
        print_log(
            f"feature cache {cache.folder}: there is room for about {format_gb(room)} of the "
            f"{format_gb(lacking)} to come; the rest will be computed each time. Raise max_gb, "
            "make room, delete folders of other settings, or set image_embedding=False",
            logger="current",
            level=logging.WARNING,
        )


def warn_of_redraws(dataset: Any) -> None:
    """Say what to set where every epoch asks other phrases, which no cache can know."""
    for item in list_datasets(dataset):
        if not getattr(item, "redraw", False):
            continue
        reasons = [
            f"{name}={getattr(item, name)!r}"
            for name in ("max_expressions", "max_phrases")
            if getattr(item, name, None) is not None
        ]
        if getattr(item, "text_mode", None) == "random":
            reasons.insert(0, "text_mode='random'")
        if reasons:
            print_log(
                f"feature cache: the training data set draws other phrases in every epoch "
                f"({', '.join(reasons)}), and later epochs find in the cache only what was asked "
                "before: set redraw=False in train_dataloader.dataset (one draw for all epochs), "
                "or fill the cache with every sentence first (docs/feature_cache.md)",
                logger="current",
                level=logging.WARNING,
            )
