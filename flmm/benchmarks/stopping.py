"""What pointing costs that stops at a layer, against the bare full prefill of the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from flmm.benchmarks.harness import (
    TOLERANCES,
    BenchmarkSettings,
    Row,
    build_reader,
    make_expressions,
    make_image,
    summarise_seconds,
)
from flmm.benchmarks.reading_ways import measure_parts
from flmm.meters import time_call
from flmm.readers import FrozenVLM
from flmm.readers.published_sizes import LARGE
from flmm.records import ImageInput


@torch.inference_mode()
def stop(settings: BenchmarkSettings) -> list[Row]:
    """The bare full prefill, then pointing through half and three quarters of the layers.

    ``ratio`` is the median of those of each round, from ``low_ratio`` to ``high_ratio``;
    ``allowed`` what the parts of the bare full prefill leave: the share of the vision tower plus
    k / L of the rest.

    Raises:
        ValueError: the maps are not those of a full reading: no speed can be compared.
    """
    device, texts = settings.torch_device, make_expressions(settings.expressions[0])
    reader = build_reader(settings.model, settings.layers, settings.dtype, device)
    image = reader.image_processor.encode(make_image(reader, settings.tokens[0]))
    total = reader.num_layers
    depths = sorted({max(1, total // 2), max(1, total * 3 // 4)})
    whole = reader.attend(reader.prefill(image), texts)
    calls: list[Callable[[], Any]] = [partial(reader.prefill, image)]
    for depth in depths:
        calls.append(partial(_point, reader, image, texts, depth))
        maps = whole.keep_layers(depth, reader.num_heads).maps
        difference = float((calls[-1]() - maps).norm() / maps.norm())
        if not difference <= TOLERANCES[settings.dtype]:
            raise ValueError(
                f"maps of the first {depth} layers differ by {difference:.1e} (relative) from "
                "those of a full reading: their speeds cannot be compared"
            )
    rounds, vision = _take_turns(reader, calls, settings.repeats)
    rows: list[Row] = []
    for depth, seconds, ratios in zip(
        [total, *depths], zip(*rounds), zip(*([own / one[0] for own in one] for one in rounds))
    ):
        case = f"pointing, {depth} of {total} layers" if rows else "bare full prefill"
        row = {"model": settings.model, "image_tokens": settings.tokens[0], "case": case}
        row |= summarise_seconds(seconds)
        row |= {"ratio": median(ratios), "low_ratio": min(ratios), "high_ratio": max(ratios)}
        row |= {"vision_share": vision, "language_share": 1 - vision}
        rows.append(row | {"allowed": vision + (1 - vision) * depth / total})
    return rows + count_shares(LARGE, settings.tokens[0])


def count_shares(name: str, image_tokens: int) -> list[Row]:
    """What the weights of a published size allow, each counted once for each token that it meets.

    The attention's own products are left out, and so is the embedding, which is a look-up.
    """
    model = build_reader(name, device="meta").model
    decoder = model.get_decoder()
    seeing = [child for child in model.model.children() if child is not decoder]
    vision, language = (
        sum(weight.numel() for module in modules for weight in module.parameters())
        for modules in (seeing, decoder.layers)
    )
    patches = getattr(model.config.vision_config, "spatial_merge_size", 1) ** 2
    share, total = vision * patches / (vision * patches + language), len(decoder.layers)
    shares = {"vision_share": share, "language_share": 1 - share}
    return [
        {"model": name, "image_tokens": image_tokens, "case": f"by weights, {depth} of {total}"}
        | shares
        | {"allowed": share + (1 - share) * depth / total}
        for depth in (total // 2, total * 3 // 4)
    ]


def _take_turns(
    reader: FrozenVLM, calls: Sequence[Callable[[], Any]], repeats: int
) -> tuple[list[list[float]], float]:
    """Seconds of each call in each round, and the vision tower's share of the first one.

    One call after the other, so that a busy moment hits all of them.
    """
    rounds, shares = [], []
    for _ in range(repeats):
        rounds.append([time_call(call, reader.device) for call in calls])
        parts = measure_parts(reader, calls[0])
        shares.append(parts["vision"] / sum(parts.values()))
    return rounds, median(shares)


def _point(reader: FrozenVLM, image: ImageInput, texts: Sequence[str], layers: int) -> Tensor:
    """From the encoded picture to the maps of the first layers."""
    return reader.attend(reader.prefill(image, layers=layers), texts).maps
