"""The ways of reading attention that are compared, each on the same weights and inputs.

Out: seconds of every run and of the reader's parts, peak extra memory, largest tensor, the maps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flmm.benchmarks.harness import (
    Row,
    build_reader,
    make_expressions,
    make_image,
    summarise_seconds,
)
from flmm.meters import LargestTensor, PeakMemory, synchronise, time_call
from flmm.readers import FrozenVLM, Prefix
from flmm.readers.check import build_model_inputs
from flmm.readers.prefixes import gather_grids
from flmm.records import Continuation, Span, as_continuations

PARTS = ("vision", "layers", "head", "rest")


@dataclass(frozen=True)
class ReadingCase:
    """One measurement; fields as in :class:`flmm.benchmarks.harness.BenchmarkSettings`."""

    way: str
    model: str
    layers: int | None
    image_tokens: int
    expressions: int
    repeats: int = 3
    max_passes: int = 7
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def passes(self) -> int:
        """Passes through the model that are really run: F-LMM's way has one per expression."""
        return min(self.expressions, self.max_passes) if self.way == "flmm" else 1


def measure_case(case: ReadingCase) -> tuple[Row, np.ndarray | None]:
    """Run one case: its row, and the maps ``[passes or P, L*A, h, w]``, which the floor has not.

    In the row ``vision_s``, ``layers_s``, ``head_s`` and ``rest_s`` are of one further run;
    ``gpu_percent`` is ``None`` without a GPU or NVML.
    """
    device = torch.device(case.device)
    implementation = "eager" if case.way.startswith("flmm") else "sdpa"
    reader = build_reader(
        case.model, case.layers, case.dtype, device, attn_implementation=implementation
    )
    image = make_image(reader, case.image_tokens)
    run = build_run(case, reader, image)
    with torch.inference_mode():
        grid_hw = reader.prefill(image).grid_hw
        with PeakMemory(device) as memory:
            maps = run()
        seconds = [time_call(run, device) for _ in range(case.repeats)]
        parts = measure_parts(reader, run)
        gpu_percent = measure_utilization(run, device)
        with LargestTensor() as largest:
            run()
    scale = case.expressions / case.passes if case.way == "flmm" else 1
    times = summarise_seconds([value * scale for value in seconds])
    speed = 1 / times["median_s"]
    row = asdict(case) | {
        "image_tokens": grid_hw[0] * grid_hw[1],
        **times,
        **{f"{part}_s": value * scale for part, value in parts.items()},
        "images_per_s": speed,
        "expressions_per_s": None if case.way == "floor" else case.expressions * speed,
        "gpu_percent": gpu_percent,
        "extra_mb": None if memory.extra_bytes is None else memory.extra_bytes / 2**20,
        "largest_mb": largest.bytes / 2**20,
        "largest_shape": list(largest.shape),
        "extrapolated": scale != 1,
    }
    return row, None if maps is None else maps.float().cpu().numpy()


def build_run(
    case: ReadingCase, reader: FrozenVLM, picture: np.ndarray
) -> Callable[[], Tensor | None]:
    """What is timed: from the encoded picture to the maps."""
    expressions = make_expressions(case.expressions)
    texts = [join_expressions(expressions)] if "joined" in case.way else expressions
    image = reader.image_processor.encode(picture)
    if case.way.startswith("ours"):
        return lambda: reader.attend(reader.prefill(image), texts).maps
    prefix = reader.prefill(image)
    if case.way == "floor":

        def read_floor() -> None:
            reader.prefill(image)

        return read_floor
    encoded = [reader.plain_text.encode_continuation(text) for text in as_continuations(texts)]
    passes = [
        (build_model_inputs(reader, picture, [*prefix.input_ids.tolist(), *item.input_ids]), item)
        for item in encoded[: case.passes]
    ]
    return lambda: torch.cat(
        [read_with_eager(reader, prefix, inputs, item.token_spans) for inputs, item in passes]
    )


def join_expressions(expressions: Sequence[str]) -> Continuation:
    """All expressions as one text with a span each."""
    text, spans = "", []
    for expression in expressions:
        spans.append((len(text), len(text) + len(expression)))
        text += f"{expression} "
    return Continuation(text.rstrip(), spans=tuple(spans))


def read_with_eager(
    reader: FrozenVLM, prefix: Prefix, inputs: dict[str, Tensor], spans: Sequence[Span]
) -> Tensor:
    """F-LMM's way: the whole model with eager attention, every S x S matrix and all logits kept.

    ``spans`` count tokens behind the prefix. Gives float32 ``[P, L*A, h, w]``. Source: F-LMM
    flmm/models/frozen_llava.py, ``_forward``.
    """
    output = reader.model(
        **inputs, output_attentions=True, output_hidden_states=True, use_cache=False
    )
    maps = []
    for start, end in spans:
        rows = slice(len(prefix) + start, len(prefix) + end)
        layers = [layer[0, :, rows].float().mean(1) for layer in output.attentions]
        merged = torch.cat(layers)[:, prefix.image_columns]
        maps.append(gather_grids(merged, prefix.image_input)[0])
    return torch.stack(maps)


def measure_parts(reader: FrozenVLM, call: Callable[[], Any]) -> dict[str, float]:
    """Seconds of one call by part of the reader, told by hooks on the real modules.

    A run of its own, because hooks that wait for the device cost a little. ``"vision"`` is the
    vision tower with its projection, ``"layers"`` all layers of the language model (with the
    merging of the phrases' rows), ``"rest"`` everything between them.
    """
    model, decoder = reader.model, reader.model.get_decoder()
    modules = {
        "vision": [item for item in model.model.children() if item is not decoder],
        "layers": list(decoder.layers),
        "head": [model.get_output_embeddings()],
    }
    seconds = dict.fromkeys(PARTS, 0.0)
    started: list[float] = []

    def start(*_: Any) -> None:
        synchronise(reader.device)
        started.append(time.perf_counter())

    def stop_part(part: str) -> Callable[..., None]:
        def stop(*_: Any) -> None:
            synchronise(reader.device)
            seconds[part] += time.perf_counter() - started.pop()

        return stop

    with ExitStack() as hooks:
        for part, members in modules.items():
            for module in members:
                hooks.callback(module.register_forward_pre_hook(start).remove)
                hooks.callback(module.register_forward_hook(stop_part(part)).remove)
        total = time_call(call, reader.device)
    seconds["rest"] = total - sum(seconds.values())
    return seconds


def measure_utilization(
    call: Callable[[], Any], device: torch.device, seconds: float = 3.0
) -> float | None:
    """How busy a GPU is while a call is repeated, in percent; ``None`` without a GPU or NVML.

    What NVML (the package ``nvidia-ml-py``) tells in the first half is left out: its sample, up to
    a second long, still holds the time before.
    """
    if device.type != "cuda":
        return None
    samples: list[int] = []
    start = time.perf_counter()
    try:
        while (passed := time.perf_counter() - start) < seconds or not samples:
            time_call(call, device)
            samples += [torch.cuda.utilization(device)] if passed > seconds / 2 else []
    except (ImportError, RuntimeError):
        return None
    return sum(samples) / len(samples)
