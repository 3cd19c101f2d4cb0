"""Cost of what comes after reading: masks, questions, phrases, an epoch, a split; half precision.

Reader and refiner have random weights but for "tiny".
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flmm.benchmarks.harness import (
    TINY_CONFIG,
    BenchmarkSettings,
    Row,
    build_grounder,
    build_reader,
    build_rows,
    build_toy,
    compare_calls,
    make_expressions,
    make_image,
)
from flmm.evaluation import compute_summary
from flmm.evaluation.evaluating import EvaluationSplit, evaluate_split
from flmm.features import FeatureCache
from flmm.grounder import Grounder
from flmm.inferencer import GroundingInferencer
from flmm.masks import SAMRefiner
from flmm.meters import PeakMemory, time_call
from flmm.records import GroundingSample, ImageInput, as_continuations
from flmm.toy.shape_sentences import render_samples

DTYPES = ("float32", "bfloat16", "float16")
Data = list[tuple[ImageInput, GroundingSample]]
_SIZES, _COLORS = ("small", "big", "left", "right"), ("red", "blue", "green", "yellow", "purple")
_KINDS = ("circle", "square", "triangle", "star", "cross")


def refine(settings: BenchmarkSettings, masks: int = 30) -> list[Row]:
    """One mask and many masks refined on one picture, its encoding included."""
    rows = []
    for name in dict.fromkeys([settings.sam, "tiny"]):
        rows += _refine_with(name, masks, settings.torch_device, settings.repeats)
    return rows


def _refine_with(name: str, masks: int, device: torch.device, repeats: int) -> list[Row]:
    torch.manual_seed(0)
    refiner = SAMRefiner(name).to(device).eval()
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    coarse = torch.randn(masks, 64, 84, device=device)
    words = [torch.randn(2 + row % 5, refiner.embed_dim, device=device) for row in range(masks)]

    @torch.inference_mode()
    def run(count: int) -> None:
        (encoding,) = refiner.encode([image])
        refiner.refine(encoding, coarse[:count], words[:count])

    calls = {"1 mask": lambda: run(1), f"{masks} masks": lambda: run(masks)}
    return compare_calls(f"refine, SAM {name}", calls, device, repeats)


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
        row: Row = {"phrases": count, "picture": f"{size[1]} x {size[0]}", "time_s": seconds}
        row["peak MiB"] = None if extra is None else round(extra / 2**20)
        row["masks MiB"] = sum(len(own["counts"]) for own in result.segmentations) / 2**20
        rows.append(row)
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


def evaluate(settings: BenchmarkSettings, images: int = 10, expressions: int = 7) -> list[Row]:
    """The loop of tools/eval_refcoco.py in both ways; an error where they do not count alike."""
    with tempfile.TemporaryDirectory() as folder:
        model, dataset = build_toy(folder, 30 * images, settings.torch_device, min_objects=3)
        items = _keep_expressions(dataset, images, expressions)
        split = EvaluationSplit("shapes", "val", items, ["standard"])
        seconds: dict[bool, list[float]] = {True: [], False: []}
        scores = {}
        for turn in range(settings.repeats + 1):
            for one_by_one in seconds:
                journal = Path(folder) / f"{turn}_{one_by_one}"
                (result,) = evaluate_split({"": model}, split, journal, one_by_one=one_by_one)
                scores[one_by_one] = result.scores
                if turn:
                    seconds[one_by_one].append(result.seconds)
    if scores[True] != scores[False]:
        raise ValueError("the two ways of evaluating disagree: their speeds cannot be compared")
    what = f"evaluate {len(items)} images x {expressions} expressions, tiny model"
    return build_rows(what, {"one by one": seconds[True], "read once": seconds[False]})


def _keep_expressions(dataset: Any, images: int, count: int) -> list[dict[str, Any]]:
    """The first items with at least so many expressions, cut to them; loaded beforehand."""
    items: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        item = dataset[index]
        sample: GroundingSample = item["data_samples"]
        if len(items) < images and len(sample.expression_ids) >= count:
            kept = {name: getattr(sample, name)[:count] for name in ("expression_ids", "ref_ids")}
            cut = GroundingSample(metainfo={"image_id": sample.image_id, **kept})
            cut.continuations = sample.continuations[:count]
            cut.gt_masks = sample.gt_masks[:count]
            items.append({"inputs": item["inputs"], "data_samples": cut})
    return items


def precision(settings: BenchmarkSettings, images: int = 50) -> list[Row]:
    """How far a reader in half precision strays from float32; the rows' softmax is always float32.

    ``changed``: percent of expressions whose refined mask has other counts than in float32;
    ``map_difference`` (relative, mean over phrases and heads) and ``worst_head``.
    """
    return [*_measure_toy(settings.torch_device, images), *_measure_size(settings)]


def _measure_toy(device: torch.device, images: int) -> list[Row]:
    rows: list[Row] = []
    maps, refined = [], []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in DTYPES:
            model, dataset = build_toy(folder, 20 * images, device, dtype)
            split = EvaluationSplit("shapes", "val", dataset, ["standard"])
            (result,) = evaluate_split({"": model}, split, Path(folder) / dtype)
            scores = result.scores["standard"]
            sample, vlm = dataset[0], model.vlm
            prefix = vlm.prefill(sample["inputs"])
            maps.append(vlm.attend(prefix, sample["data_samples"].continuations).maps)
            refined.append([score.refined for score in scores])
            changed = sum(one != other for one, other in zip(refined[-1], refined[0]))
            coarse = [score.coarse for score in scores if score.coarse is not None]
            row: Row = {"what": "tiny model", "dtype": dtype, "expressions": len(scores)}
            row["cIoU"] = compute_summary(*zip(*refined[-1]))["cIoU"]
            row["coarse_cIoU"] = compute_summary(*zip(*coarse))["cIoU"]
            row["changed"] = 100 * changed / len(scores)
            rows.append(row | compute_difference(maps[-1], maps[0]))
    return rows


def _measure_size(settings: BenchmarkSettings) -> list[Row]:
    rows: list[Row] = []
    exact = None
    for dtype in DTYPES:
        reader = build_reader(settings.model, settings.layers, dtype).to(settings.torch_device)
        maps = reader.attend(reader.prefill(make_image(reader, 300)), make_expressions(7)).maps
        exact = maps if exact is None else exact
        name = f"{settings.model}, {reader.num_layers} layers, random weights"
        rows.append({"what": name, "dtype": dtype, **compute_difference(maps, exact)})
        del reader
    return rows


def compute_difference(maps: Tensor, exact: Tensor) -> dict[str, float]:
    """Relative difference of maps ``[P, C, h, w]``: norms per phrase and channel."""
    errors = (maps - exact).flatten(2).norm(dim=2) / exact.flatten(2).norm(dim=2)
    return {"map_difference": float(errors.mean()), "worst_head": float(errors.mean(0).max())}
