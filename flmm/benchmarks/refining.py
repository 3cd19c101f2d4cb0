"""Cost of what comes after reading: many masks on one picture, and a second question about it.

In: names of models, random weights where they are large. Out: rows of median seconds and ratios.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from flmm.benchmarks.models import build_layout_grounder
from flmm.benchmarks.reading_ways import make_expressions, make_image
from flmm.benchmarks.timing import build_rows, time_alternately
from flmm.inferencer import GroundingInferencer
from flmm.masks import SAMRefiner

Row = dict[str, Any]


def measure_refining(
    model_name: str, device: torch.device, masks: int = 30, repeats: int = 3
) -> list[Row]:
    """One mask and many masks refined on one picture, its encoding included.

    Args:
        model_name: of segment-anything's registry, or "tiny"; random weights but for "tiny".
        device: of the refiner.
        masks: how many are many.
        repeats: timed rounds.
    """
    torch.manual_seed(0)
    refiner = SAMRefiner(model_name).to(device).eval()
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    coarse = torch.randn(masks, 64, 84, device=device)
    words = [torch.randn(2 + row % 5, refiner.embed_dim, device=device) for row in range(masks)]

    @torch.inference_mode()
    def refine(count: int) -> None:
        refiner(image, coarse[:count], words[:count])

    calls = {"1 mask": lambda: refine(1), f"{masks} masks": lambda: refine(masks)}
    return build_rows(f"refine, SAM {model_name}", time_alternately(calls, device, repeats))


def measure_asking(
    layout: str,
    layers: int | None,
    model_name: str,
    device: torch.device,
    image_tokens: int = 1000,
    expressions: int = 7,
    repeats: int = 3,
) -> list[Row]:
    """The first question about a picture, and a second one.

    Args:
        layout, layers: of the reader, random weights.
        model_name: of the refiner.
        device: of all.
        image_tokens: of the picture.
        expressions: of each question.
        repeats: timed rounds; every round begins with a picture that is new.
    """
    grounder = build_layout_grounder(layout, layers, model_name)
    reader = grounder.vlm
    inferencer = GroundingInferencer.from_model(grounder, device)
    factor = reader.image_processor.patch_size * reader.image_processor.merge_size
    image = make_image(image_tokens, factor)
    questions = make_expressions(2 * expressions)
    rounds = iter(range(10**6))

    def ask_first() -> None:
        image[0, 0] = next(rounds) % 256  # another picture
        inferencer(image, questions[:expressions])

    def ask_again() -> None:
        inferencer(image, questions[expressions:])

    calls = {"first question": ask_first, "second question": ask_again}
    name = f"ask, {layout} {reader.num_layers} layers + SAM {model_name}"
    return build_rows(name, time_alternately(calls, device, repeats))


__all__ = ["measure_asking", "measure_refining"]
