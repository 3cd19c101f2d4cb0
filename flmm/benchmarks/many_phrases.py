"""Many phrases on a large picture: seconds and memory, which must not grow with the phrases.

In: the config of a small model, a device, numbers of phrases. Out: rows. Bool masks alone would
take a byte for each pixel and phrase: 24 GB for two thousand in 12 megapixels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import cycle, islice, product
from typing import Any

import torch
from PIL import Image

from flmm.benchmarks.memory import PeakMemory
from flmm.inferencer import GroundingInferencer
from flmm.toy.shape_sentences import render_samples

Row = dict[str, Any]
_SIZES, _COLORS = ("small", "big", "left", "right"), ("red", "blue", "green", "yellow", "purple")
_KINDS = ("circle", "square", "triangle", "star", "cross")


def measure_many_phrases(
    config: str,
    device: torch.device,
    counts: Sequence[int],
    size: tuple[int, int] = (3000, 4000),
) -> list[Row]:
    """Ground different numbers of phrases in one picture, which is read anew for each.

    Args:
        config: of the model.
        device: where it runs.
        counts: of phrases.
        size: (H, W) px of the picture.

    Returns:
        per count seconds, the MiB more than before the call, and what the masks take.
    """
    inferencer = GroundingInferencer(config, device=device)
    scene = Image.fromarray(render_samples(1, seed=3)[0].image)
    inferencer(scene, "a star")  # what is loaded at the first call
    picture = scene.resize((size[1], size[0]))
    words = [f"the {' '.join(parts)}" for parts in product(_SIZES, _COLORS, _KINDS)]
    rows = []
    for count in counts:
        inferencer(scene, "a star")  # another picture: nothing of the large one is kept
        with PeakMemory(device) as memory:
            began = time.perf_counter()
            result = inferencer(picture, list(islice(cycle(words), count)))
            seconds = time.perf_counter() - began
        extra = memory.extra_bytes
        rows.append(
            {
                "phrases": count,
                "picture": f"{size[1]} x {size[0]}",
                "time_s": seconds,
                "peak MiB": None if extra is None else round(extra / 2**20),
                "masks MiB": sum(len(item["counts"]) for item in result.segmentations) / 2**20,
            }
        )
    return rows


__all__ = ["measure_many_phrases"]
