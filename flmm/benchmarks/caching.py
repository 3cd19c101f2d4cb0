"""Cost of a training epoch: frozen models run in every step, or their features come from disk.

In: names of models, random weights. Out: rows of median seconds and ratios. Only the frozen part
differs: both epochs take the same steps of the same optimiser on the same pictures.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch

from flmm.benchmarks.models import build_layout_grounder
from flmm.benchmarks.reading_ways import make_expressions, make_image
from flmm.benchmarks.timing import build_rows, time_call
from flmm.features import FeatureCache
from flmm.grounder import Grounder
from flmm.records import GroundingSample, ImageInput, as_continuations

Row = dict[str, Any]
CPU = torch.device("cpu")
Data = list[tuple[ImageInput, GroundingSample]]


def measure_caching(
    layout: str = "width-1024",
    layers: int | None = None,
    model_name: str = "vit_b",
    device: torch.device = CPU,
    image_tokens: int = 1000,
    phrases: int = 2,
    images: int = 2,
    repeats: int = 3,
) -> list[Row]:
    """An epoch without feature cache, the one that fills it, and one that reads it.

    Args:
        layout, layers: of the reader, random weights.
        model_name: of the refiner.
        device: of all.
        image_tokens: of each picture.
        phrases: of each picture.
        images: of an epoch.
        repeats: timed epochs of each kind, in turns; a cache is filled anew for each.

    Raises:
        ValueError: losses with the cache are not those without it.
    """
    grounder = build_layout_grounder(layout, layers, model_name).to(device).train()
    data = _make_data(grounder, image_tokens, phrases, images)
    _check_losses(grounder, data)
    seconds: dict[str, list[float]] = {"epoch without cache": [], "epoch that fills it": []}
    seconds["epoch with cache"] = []
    for _ in range(repeats):
        seconds["epoch without cache"].append(time_call(_Epoch(grounder, data), device))
        with tempfile.TemporaryDirectory() as folder:
            grounder.feature_cache = FeatureCache(folder, grounder.vlm, grounder.sam)
            for case in ("epoch that fills it", "epoch with cache"):
                seconds[case].append(time_call(_Epoch(grounder, data), device))
            grounder.feature_cache = None
    name = f"train, {layout} {grounder.vlm.num_layers} layers + SAM {model_name}"
    return build_rows(name, seconds)


class _Epoch:
    """One pass through the data with an optimiser step for each picture, and a flush."""

    def __init__(self, grounder: Grounder, data: Data) -> None:
        self.grounder, self.data = grounder, data
        trained = [item for item in grounder.parameters() if item.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6)

    def __call__(self) -> None:
        for image, sample in self.data:
            losses = _compute_losses(self.grounder, image, sample)
            self.optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            self.optimizer.step()
        if self.grounder.feature_cache is not None:
            self.grounder.feature_cache.flush()


def _compute_losses(
    grounder: Grounder, image: ImageInput, sample: GroundingSample
) -> dict[str, torch.Tensor]:
    figures = grounder.compute_loss([image], [sample])
    return {name: value for name, value in figures.items() if "loss" in name}


def _make_data(grounder: Grounder, image_tokens: int, phrases: int, images: int) -> Data:
    """Pictures of noise, each with phrases and a true box for each."""
    processor = grounder.vlm.image_processor
    factor = processor.patch_size * processor.merge_size
    texts = make_expressions(phrases * images)
    data = []
    for index in range(images):
        picture = make_image(image_tokens, factor)
        picture[0, 0] = index  # each is another one
        masks = np.zeros((phrases, *picture.shape[:2]), dtype=bool)
        masks[:, 50:300, 80:400] = True
        own = texts[index * phrases : (index + 1) * phrases]
        sample = GroundingSample(continuations=as_continuations(own))
        sample.gt_masks = torch.from_numpy(masks)
        data.append((processor.encode(picture), sample))
    return data


@torch.no_grad()
def _check_losses(grounder: Grounder, data: Data) -> None:
    """Losses of the first picture with and without the cache, as they are stored in float16."""
    wanted = _compute_losses(grounder, *data[0])
    with tempfile.TemporaryDirectory() as folder:
        grounder.feature_cache = FeatureCache(folder, grounder.vlm, grounder.sam)
        _compute_losses(grounder, *data[0])
        found = _compute_losses(grounder, *data[0])
        grounder.feature_cache = None
    for name, value in wanted.items():
        if not torch.isclose(found[name], value, rtol=1e-3, atol=1e-4):
            raise ValueError(
                f"{name} is {float(found[name]):.6f} with the cache and {float(value):.6f} "
                "without: a cache must change nothing"
            )


__all__ = ["measure_caching"]
