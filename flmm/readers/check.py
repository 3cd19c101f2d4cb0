"""Whether a model and its processor are ready for flmm; what a user runs first on real weights.

In: a folder or hub id. Out: a report (a dict that goes into JSON) and its lines for a terminal.
Not its duty: accuracy.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from flmm.images import load_any_image, load_image
from flmm.readers.base import Prefix
from flmm.readers.qwen import FrozenQwen

PHRASES = ("person", "the man in the white shirt on the left", "左边的红色杯子")
LONGEST_SIDE_PX = 448
# Largest relative difference of maps that rounding explains, per dtype. In half precision prefill
# and eager pass round differently in every layer; float32 tells rounding from a fault.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
HALF_TOLERANCE = 0.1


def run_check(
    name: str,
    device: str | None = None,
    dtype: str | None = None,
    image: str | None = None,
    json_path: str | None = None,
    random_init: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Check a model, print what was found, write it as JSON.

    Args:
        name: folder or hub id.
        device: ``None``: a GPU if there is one.
        dtype: ``None``: bfloat16 on a GPU, float32 elsewhere.
        image: path of the picture to try; ``None``: a drawn one. Shrunk to 448 px.
        json_path: where the report goes; ``None``: nowhere.
        random_init: check the architecture with random weights.
        say: takes each line.

    Returns:
        exit code: 0 ready, 1 not.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    report: dict[str, Any] = {"name": str(name), "problems": []}
    try:
        vlm = FrozenQwen(name, dtype=dtype, random_init=random_init).to(device)
        report |= check_reader(vlm, _load_picture(image))
    except Exception as error:  # whatever is wrong is what the user asked for
        report["problems"].append(f"{type(error).__name__}: {error}")
    if json_path:
        Path(json_path).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    for line in format_report(report):
        say(line)
    return 1 if report["problems"] else 0


def check_reader(vlm: FrozenQwen, image: Any) -> dict[str, Any]:
    """All checks on a loaded reader.

    Returns:
        dict with ``model``, ``prefix``, ``comparison`` and ``problems`` (a list of sentences,
        empty when ready).
    """
    prefix = vlm.prefill(image)
    comparison = compare_with_eager(vlm, prefix, list(PHRASES))
    problems = [
        *_check_frozen(vlm),
        *_check_isolation(vlm, prefix),
        *_check_difference(vlm, comparison),
    ]
    return {
        "model": describe(vlm),
        "prefix": {
            "tokens": len(prefix),
            "grid_hw": list(prefix.grid_hw),
            "image_span": [prefix.image_columns.start, prefix.image_columns.stop],
            # Compared at every reading: without an error they are.
            "positions": f"as published (transformers {transformers.__version__})",
        },
        "comparison": comparison,
        "problems": problems,
    }


def describe(vlm: FrozenQwen) -> dict[str, Any]:
    """What the model is: family, classes, ids, sizes and the prompt it reads."""
    config, wrapper = vlm.model.config, vlm.image_processor
    return {
        "family": config.model_type,
        "model_class": type(vlm.model).__name__,
        "processor_class": type(vlm.processor).__name__,
        "image_processor_class": type(wrapper.image_processor).__name__,
        "tokenizer_class": type(vlm.tokenizer).__name__,
        "image_token_id": config.image_token_id,
        "vision_start_token_id": config.vision_start_token_id,
        "vision_end_token_id": config.vision_end_token_id,
        "patch_size": wrapper.patch_size,
        "merge_size": wrapper.merge_size,
        "pixel_limits": list(wrapper.pixel_limits),
        "layers": vlm.num_layers,
        "heads": vlm.num_heads,
        "maps": vlm.num_maps,
        "hidden_size": vlm.hidden_size,
        "parameters": sum(weight.numel() for weight in vlm.model.parameters()),
        "dtype": str(vlm.dtype).removeprefix("torch."),
        "device": str(vlm.device),
        "prompt": vlm.render_prompt(),
    }


def compare_with_eager(vlm: FrozenQwen, prefix: Prefix, phrases: list[str]) -> dict[str, Any]:
    """``prefill`` + ``attend`` against one whole eager pass per phrase, as F-LMM does it.

    Returns:
        dict with ``relative_difference`` (norm of the difference by norm of the eager maps),
        ``per_layer`` (the same, a list) and, for each way, seconds and peak extra bytes
        (``None`` where the platform does not tell).
    """
    with measure(vlm.device) as read_once:
        seen = vlm.attend(vlm.prefill(prefix.image_input), phrases)
    with measure(vlm.device) as eager:
        expected = torch.stack([read_eagerly(vlm, prefix, ids) for ids in seen.input_ids])
    layers = (vlm.num_layers, vlm.num_heads)
    difference = (seen.maps - expected).unflatten(1, layers).transpose(0, 1).flatten(1).norm(dim=1)
    norms = expected.unflatten(1, layers).transpose(0, 1).flatten(1).norm(dim=1)
    return {
        "phrases": phrases,
        "relative_difference": (difference.norm() / norms.norm()).item(),
        "per_layer": (difference / norms).tolist(),
        "attend": read_once,
        "eager": eager,
    }


@torch.no_grad()
def read_eagerly(vlm: FrozenQwen, prefix: Prefix, phrase_ids: Tensor) -> Tensor:
    """Maps ``[L*A, h, w]`` of one phrase from one eager pass over everything."""
    input_ids = torch.cat([prefix.input_ids, phrase_ids])[None]
    with vlm.lock:  # beside other threads
        before = vlm.model.config._attn_implementation
        vlm.model.set_attn_implementation("eager")
        try:
            output = vlm.model.model(
                input_ids=input_ids,
                **vlm.collate([prefix.image_input]),
                mm_token_type_ids=(input_ids == vlm.model.config.image_token_id).int(),
                output_attentions=True,
                use_cache=False,
            )
        finally:
            vlm.model.set_attn_implementation(before)
    rows = [layer[0, :, len(prefix) :, prefix.image_columns].float() for layer in output.attentions]
    merged = [row.mean(1) if vlm.token_merge == "mean" else row.amax(1) for row in rows]
    return torch.cat([maps.to(vlm.device) for maps in merged]).unflatten(-1, prefix.grid_hw)


def _check_frozen(vlm: FrozenQwen) -> list[str]:
    parent = torch.nn.ModuleDict({"vlm": vlm}).train().requires_grad_(True)
    found = {
        "weights require a gradient": any(w.requires_grad for w in vlm.model.parameters()),
        "modules left eval mode": any(module.training for module in vlm.model.modules()),
        "weights appear in a parent's state dict": len(parent.state_dict()) > 0,
    }
    return [f"the reader is not frozen: {what}" for what, wrong in found.items() if wrong]


def _check_isolation(vlm: FrozenQwen, prefix: Prefix) -> list[str]:
    """A phrase's map alone, with sisters, and with the sisters in another order."""
    phrase, *sisters = PHRASES
    alone = vlm.attend(prefix, [phrase]).maps[0]
    first = vlm.attend(prefix, [phrase, *sisters]).maps[0]
    last = vlm.attend(prefix, [*reversed(sisters), phrase]).maps[-1]
    change = max(((other - alone).norm() / alone.norm()).item() for other in (first, last))
    limit = TOLERANCE.get(vlm.dtype, HALF_TOLERANCE)
    if change > limit:
        return [f"a phrase's map changes by {change:.1e} when sister phrases are added"]
    return []


def _check_difference(vlm: FrozenQwen, comparison: dict[str, Any]) -> list[str]:
    difference, limit = comparison["relative_difference"], TOLERANCE.get(vlm.dtype, HALF_TOLERANCE)
    if difference <= limit:
        return []
    hint = "" if vlm.dtype in TOLERANCE else "; --dtype float32 tells rounding from a fault"
    return [
        f"attend differs from one eager pass per phrase by {difference:.1e}, more than "
        f"{limit:.0e}{hint}"
    ]


def format_report(report: dict[str, Any]) -> list[str]:
    """The report as lines for a terminal; the last one says ready, or what is wrong."""
    lines = [f"{report['name']}"]
    if "model" in report:
        facts = dict(report["model"]) | report["prefix"]
        prompt = facts.pop("prompt")
        lines += [f"  {name:24}{value}" for name, value in facts.items()]
        lines += ["  prompt", *(f"    | {line}" for line in prompt.splitlines())]
        comparison = report["comparison"]
        lines.append(f"  {'difference to eager':24}{comparison['relative_difference']:.1e}")
        for way in ("attend", "eager"):
            cost = comparison[way]
            peak = cost["peak_extra_bytes"]
            memory = "not measured" if peak is None else f"{peak / 2**20:.0f} MiB extra"
            lines.append(f"  {way:24}{cost['seconds']:.2f} s, {memory}")
        if any("differs from" in problem for problem in report["problems"]):
            lines.append("  difference per layer")
            values = enumerate(comparison["per_layer"])
            lines += [f"    layer {index:3}  {value:.1e}" for index, value in values]
    if report["problems"]:
        return lines + [f"not ready: {problem}" for problem in report["problems"]]
    return [*lines, "ready"]


def _load_picture(path: str | None) -> Any:
    """The picture to try, at most 448 px long; without a path a bright rectangle on a ramp."""
    if path is None:
        ramp = np.linspace(20, 120, 336 * 448 * 3).reshape(336, 448, 3).astype(np.uint8)
        ramp[90:200, 250:390] = (230, 60, 40)
        return load_image(ramp)
    picture = load_any_image(path)
    picture.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    return picture


@contextmanager
def measure(device: torch.device) -> Iterator[dict[str, Any]]:
    """Seconds and peak extra bytes of a block, as a dict that is filled when it ends."""
    cost: dict[str, Any] = {}
    meter = _CudaMemory(device) if device.type == "cuda" else _ResidentMemory()
    start = time.perf_counter()
    try:
        yield cost
    finally:
        cost["peak_extra_bytes"] = meter.stop()
        cost["seconds"] = time.perf_counter() - start


class _CudaMemory:
    """Watches the memory that torch has allocated on a GPU."""

    def __init__(self, device: torch.device) -> None:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        self._device = device
        self._before = torch.cuda.memory_allocated(device)

    def stop(self) -> int:
        """Peak growth in bytes, once everything queued is done."""
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - self._before


class _ResidentMemory:
    """Watches this process's resident memory from a thread (Linux; elsewhere tells nothing)."""

    _STATM = Path("/proc/self/statm")

    def __init__(self, interval_s: float = 0.002) -> None:
        self._interval_s = interval_s
        self._before = self._peak = self._read_pages()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self._STATM.exists():
            self._thread.start()

    def _read_pages(self) -> int:
        return int(self._STATM.read_text().split()[1]) if self._STATM.exists() else 0

    def _watch(self) -> None:
        while not self._done.wait(self._interval_s):
            self._peak = max(self._peak, self._read_pages())

    def stop(self) -> int | None:
        """Peak growth in bytes; ``None`` where it cannot be read."""
        if not self._thread.is_alive():
            return None
        self._done.set()
        self._thread.join()
        return (self._peak - self._before) * os.sysconf("SC_PAGE_SIZE")
