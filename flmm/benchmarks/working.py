"""Cost of what comes after reading: many masks, a second question, many phrases, an epoch.

In: settings. Out: rows of median seconds and ratios; reader and refiner have random weights but for
"tiny".
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice, product
from typing import Any

import numpy as np
import torch
from PIL import Image

from flmm.benchmarks.harness import BenchmarkSettings, Row, build_rows, compare_calls
from flmm.benchmarks.inputs import TINY_CONFIG, build_grounder, make_expressions, make_image
from flmm.features import FeatureCache
from flmm.grounder import Grounder
from flmm.inferencer import GroundingInferencer
from flmm.masks import SAMRefiner
from flmm.meters import PeakMemory, time_call
from flmm.records import GroundingSample, ImageInput, as_continuations
from flmm.toy.shape_sentences import render_samples

Data = list[tuple[ImageInput, GroundingSample]]
_SIZES, _COLORS = ("small", "big", "left", "right"), ("red", "blue", "green", "yellow", "purple")
_KINDS = ("circle", "square", "triangle", "star", "cross")


def refine(settings: BenchmarkSettings, masks: int = 30) -> list[Row]:
    """One mask and many masks refined on one picture, its encoding included."""
    rows = []
    for name in dict.fromkeys([settings.sam, "tiny"]):
        calls = _prepare_refining(name, masks, settings.torch_device)
        what = f"refine, SAM {name}"
        rows += compare_calls(what, calls, settings.torch_device, settings.repeats)
    return rows


def _prepare_refining(name: str, masks: int, device: torch.device) -> dict[str, Callable[[], Any]]:
    torch.manual_seed(0)
    refiner = SAMRefiner(name).to(device).eval()
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    coarse = torch.randn(masks, 64, 84, device=device)
    words = [torch.randn(2 + row % 5, refiner.embed_dim, device=device) for row in range(masks)]

    @torch.inference_mode()
    def run(count: int) -> None:
        (encoding,) = refiner.encode([image])
        refiner.refine(encoding, coarse[:count], words[:count])

    return {"1 mask": lambda: run(1), f"{masks} masks": lambda: run(masks)}


def ask(settings: BenchmarkSettings) -> list[Row]:
    """The first question about a picture, and a second one; each round has a new picture."""
    device, expressions = settings.torch_device, settings.expressions[0]
    grounder = build_grounder(settings.model, settings.layers, settings.sam, device)
    inferencer = GroundingInferencer.from_model(grounder, device)
    image = make_image(grounder.vlm, settings.tokens[0])
    questions = make_expressions(2 * expressions)

    def ask_first() -> None:
        image[0, 0] += 1  # another picture
        inferencer(image, questions[:expressions])

    def ask_again() -> None:
        inferencer(image, questions[expressions:])

    calls = {"first question": ask_first, "second question": ask_again}
    name = f"ask, {settings.model} {grounder.vlm.num_layers} layers + SAM {settings.sam}"
    return compare_calls(name, calls, device, settings.repeats)


def many(settings: BenchmarkSettings, size: tuple[int, int] = (3000, 4000)) -> list[Row]:
    """Many phrases on a large picture ``(H, W)``, which is read anew for each number of them.

    Memory must not grow with them: bool masks of two thousand would take 24 GB.
    """
    device = settings.torch_device
    inferencer = GroundingInferencer(TINY_CONFIG, device=device)
    scene = Image.fromarray(render_samples(1, seed=3)[0].image)
    picture = scene.resize(size[::-1])
    words = [f"the {' '.join(parts)}" for parts in product(_SIZES, _COLORS, _KINDS)]
    rows = []
    for count in settings.expressions:
        inferencer(scene, "a star")  # another picture: nothing of the large one is kept
        phrases = list(islice(cycle(words), count))
        with PeakMemory(device) as memory:
            began = time.perf_counter()
            result = inferencer(picture, phrases)
            seconds = time.perf_counter() - began
        extra = memory.extra_bytes
        rows.append(
            {
                "phrases": count,
                "picture": f"{size[1]} x {size[0]}",
                "time_s": seconds,
                "peak MiB": None if extra is None else round(extra / 2**20),
                "masks MiB": sum(len(own["counts"]) for own in result.segmentations) / 2**20,
            }
        )
    return rows


def cache(settings: BenchmarkSettings, phrases: int = 2, images: int = 2) -> list[Row]:
    """A training epoch without feature cache, the one that fills it, and one that reads it.

    Only the frozen part differs: all take the same steps of the same optimiser.
    """
    device = settings.torch_device
    grounder = build_grounder(settings.model, settings.layers, settings.sam, device).train()
    data = _make_data(grounder, settings.tokens[0], phrases, images)
    cases = ("epoch without cache", "epoch that fills it", "epoch with cache")
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(settings.repeats):
        seconds[cases[0]].append(time_call(_build_epoch(grounder, data), device))
        with tempfile.TemporaryDirectory() as folder:
            grounder.feature_cache = FeatureCache(folder, grounder.vlm, grounder.sam)
            for case in cases[1:]:
                seconds[case].append(time_call(_build_epoch(grounder, data), device))
            grounder.feature_cache = None
    layers = f"{grounder.vlm.num_layers} layers"
    return build_rows(f"train, {settings.model} {layers} + SAM {settings.sam}", seconds)


def _build_epoch(grounder: Grounder, data: Data) -> Callable[[], None]:
    """One pass through the data with an optimiser step for each picture."""
    optimizer = torch.optim.AdamW([w for w in grounder.parameters() if w.requires_grad], lr=1e-6)

    def run() -> None:
        for image, sample in data:
            figures = grounder.compute_loss([image], [sample])
            optimizer.zero_grad()
            losses = [value for name, value in figures.items() if "loss" in name]
            torch.stack(losses).sum().backward()
            optimizer.step()

    return run


def _make_data(grounder: Grounder, image_tokens: int, phrases: int, images: int) -> Data:
    """Pictures of noise, each with phrases and a true box for each."""
    texts: Sequence[str] = make_expressions(phrases * images)
    data = []
    for index in range(images):
        picture = make_image(grounder.vlm, image_tokens)
        picture[0, 0] = index  # each is another one
        own = texts[index * phrases : (index + 1) * phrases]
        sample = GroundingSample(continuations=as_continuations(own))
        sample.gt_masks = torch.zeros(phrases, *picture.shape[:2], dtype=torch.bool)
        sample.gt_masks[:, 50:300, 80:400] = True
        data.append((grounder.vlm.image_processor.encode(picture), sample))
    return data
