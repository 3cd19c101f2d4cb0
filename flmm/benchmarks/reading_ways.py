"""The ways of reading attention that are compared, each on the same weights and inputs.

In: a case (layout, image tokens, expressions, way). Out: seconds of every run and of the reader's
parts, peak extra memory, the largest tensor, and the maps, so that speed is only ever compared
between equal results. Every way has a process of its own:
``python -m flmm.benchmarks.reading_ways CASE.json RESULT.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flmm.benchmarks.breakdown import measure_parts, measure_utilization
from flmm.benchmarks.memory import LargestTensor, PeakMemory
from flmm.benchmarks.timing import time_call
from flmm.readers.layouts import build_layout_reader
from flmm.readers.qwen import FrozenQwen
from flmm.records import Continuation, ImageInput

# "joined": all expressions in one text, each seeing those before it (F-LMM's --concat).
WAYS = ("floor", "flmm", "flmm joined", "ours", "ours joined")
WORDS = ["large", "small", "red", "blue", "green", "circle", "square", "triangle", "star", "left"]


@dataclass(frozen=True)
class ReadingCase:
    """One measurement.

    Attributes:
        way: one of ``WAYS``.
        layout, layers: of the reader, see :mod:`flmm.readers.layouts`.
        image_tokens: about so many (a grid of 3 : 4).
        expressions: of four words each.
        repeats: timed runs, after one that is not.
        max_passes: F-LMM's way has one pass per expression; of more than this only so many are
            run, and the time of a run is scaled up (``extrapolated`` in the result).
        device, dtype: of the reader.
        threads: of torch on a CPU; ``None``: its default.
    """

    way: str
    layout: str
    layers: int | None
    image_tokens: int
    expressions: int
    repeats: int = 3
    max_passes: int = 7
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None

    @property
    def passes(self) -> int:
        """Passes through the model that are really run."""
        return min(self.expressions, self.max_passes) if self.way == "flmm" else 1


def make_image(image_tokens: int, factor: int) -> np.ndarray:
    """Noise, uint8 RGB ``[H, W, 3]``, that becomes about so many image tokens."""
    rows = max(1, round((image_tokens * 3 / 4) ** 0.5))
    columns = max(1, round(image_tokens / rows))
    shape = (rows * factor, columns * factor, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def make_expressions(count: int) -> list[str]:
    """Different expressions of four words, the same in every process."""
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, 4)) for _ in range(count)]


def join_expressions(expressions: list[str]) -> Continuation:
    """All expressions as one text with a span each."""
    text = " ".join(expressions)
    ends = np.cumsum([len(expression) + 1 for expression in expressions])
    spans = [
        (int(end) - 1 - len(expression), int(end) - 1) for end, expression in zip(ends, expressions)
    ]
    return Continuation(text, spans=tuple(spans))


def measure_case(case: ReadingCase) -> tuple[dict[str, Any], Tensor | None]:
    """Run one case.

    Returns:
        (plain values, maps ``[passes or P, L*A, h, w]``); the floor has no maps. ``seconds`` and
        ``parts`` are of all expressions, ``gpu_percent`` is ``None`` without a GPU or NVML.
    """
    if case.threads:
        torch.set_num_threads(case.threads)
    device = torch.device(case.device)
    implementation = "eager" if case.way.startswith("flmm") else "sdpa"
    vlm = build_layout_reader(case.layout, case.layers, case.dtype, implementation, device=device)
    factor = vlm.image_processor.patch_size * vlm.image_processor.merge_size
    image = vlm.image_processor.encode(make_image(case.image_tokens, factor))
    run = build_run(case, vlm, image)
    with torch.inference_mode():
        with PeakMemory(device) as memory:  # the first run: nothing is left over from others
            maps = run()
        seconds = [time_call(run, device) for _ in range(case.repeats)]
        parts = measure_parts(vlm, run, device)
        gpu_percent = measure_utilization(run, device)
        with LargestTensor() as largest:
            run()
    scale = case.expressions / case.passes if case.way == "flmm" else 1
    result = {
        "seconds": [value * scale for value in seconds],
        "parts": {part: value * scale for part, value in parts.items()},
        "gpu_percent": gpu_percent,
        "extrapolated": scale != 1,
        "extra_bytes": memory.extra_bytes,
        "largest_bytes": largest.bytes,
        "largest_shape": list(largest.shape),
        "image_tokens": image.grids[0].columns.numel(),
    }
    return result, maps


def build_run(case: ReadingCase, vlm: FrozenQwen, image: ImageInput) -> Callable[[], Tensor | None]:
    """What is timed: from the encoded picture to the maps."""
    expressions = make_expressions(case.expressions)
    isolated = [Continuation(expression) for expression in expressions[: case.passes]]
    joined = [join_expressions(expressions)]

    def read_floor() -> None:
        vlm.prefill(image)

    def read_ours() -> Tensor:
        return vlm.attend(vlm.prefill(image), joined if "joined" in case.way else expressions).maps

    def read_as_flmm() -> Tensor:
        texts = joined if "joined" in case.way else isolated
        return torch.cat([read_with_eager(vlm, image, text) for text in texts])

    if case.way == "floor":
        return read_floor
    return read_ours if case.way.startswith("ours") else read_as_flmm


def read_with_eager(vlm: FrozenQwen, image: ImageInput, text: Continuation) -> Tensor:
    """F-LMM's way: the whole model with eager attention, every S x S matrix and all logits kept.

    Returns:
        float32 ``[P, L*A, h, w]``.

    Source: F-LMM flmm/models/frozen_llava.py, ``_forward``.
    """
    ids, columns = vlm._encode_prompt(vlm.default_prompt, image)
    encoded = vlm._plain_text.encode_continuation(text)
    input_ids = torch.tensor([ids + encoded.input_ids], device=vlm.device)
    output = vlm.model(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        mm_token_type_ids=(input_ids == vlm.model.config.image_token_id).int(),
        pixel_values=vlm.image_processor.patchify(image.pixel_values.to(vlm.device, vlm.dtype)),
        image_grid_thw=image.inputs["image_grid_thw"].to(vlm.device),
        output_attentions=True,
        output_hidden_states=True,
        use_cache=False,
    )
    maps = []
    for start, end in encoded.token_spans:
        rows = slice(len(ids) + start, len(ids) + end)
        layers = [layer[0, :, rows, columns].float().mean(1) for layer in output.attentions]
        maps.append(torch.cat(layers).unflatten(-1, image.grids[0].size))
    return torch.stack(maps)


def main(case_path: str, result_path: str) -> None:
    """Read a case, measure it, write the result and, beside it, the maps."""
    case = ReadingCase(**json.loads(Path(case_path).read_text()))
    result, maps = measure_case(case)
    if maps is not None:
        np.save(Path(result_path).with_suffix(".npy"), maps.float().cpu().numpy())
    Path(result_path).write_text(json.dumps({"case": asdict(case), **result}))


if __name__ == "__main__":
    main(*sys.argv[1:])
