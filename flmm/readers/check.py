"""Whether a model and its processor are ready for flmm; what a user runs first on real weights."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from flmm.images import load_any_image
from flmm.meters import PeakMemory, synchronise
from flmm.readers.base import FrozenVLM
from flmm.readers.prefixes import Prefix, gather_grids
from flmm.readers.published_sizes import write_published_model

PHRASES = ["person", "the man in the white shirt on the left", "左边的红色杯子"]
LONGEST_SIDE_PX = 448
# Largest relative difference of maps that rounding explains. In half precision prefill and eager
# pass round differently in every layer; float32 tells rounding from a fault.
TOLERANCE, HALF_TOLERANCE = 1e-4, 0.1


def run_check(
    name: str,
    device: str | None = None,
    dtype: str | None = None,
    image: str | None = None,
    json_path: str | None = None,
    random_init: bool = False,
    is_small: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Check a model, print what was found, write it as JSON.

    Args:
        name: folder or hub id.
        device, dtype: ``None``: bfloat16 on a GPU if there is one, else float32 on the CPU.
        image: path or address of the picture to try; ``None``: a drawn one. Shrunk to 448 px.
        json_path: where the report goes; ``None``: nowhere.
        random_init: check the architecture with random weights.
        is_small: a dry run without any download: ``name`` is a published size or its hub id, and
            a small stand-in of its classes is checked, with random weights.
        say: takes each line.

    Returns:
        exit code: 0 ready, 1 not.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    report: dict[str, Any] = {"name": str(name), "problems": []}
    try:
        with tempfile.TemporaryDirectory() as folder:
            source = write_published_model(name, folder, is_small=True) if is_small else name
            vlm = FrozenVLM(source, dtype=dtype, random_init=random_init or is_small).to(device)
        report |= check_reader(vlm, _load_picture(image))
    except Exception as error:  # whatever is wrong is what the user asked for
        report["problems"].append(f"{type(error).__name__}: {error}")
    if json_path:
        Path(json_path).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    for line in format_report(report):
        say(line)
    return 1 if report["problems"] else 0


def check_reader(vlm: FrozenVLM, image: Any) -> dict[str, Any]:
    """Model, prefix, comparison with one eager pass, and problems: sentences, none when ready."""
    prefix = vlm.prefill(image)
    comparison = compare_with_eager(vlm, prefix)
    return {
        "model": describe(vlm),
        "prefix": {
            "tokens": len(prefix),
            "image_span": [prefix.image_columns.start, prefix.image_columns.stop],
            "grids": [{"size": list(grid.size), "box": list(grid.box)} for grid in prefix.grids],
        },
        "comparison": comparison,
        "problems": [
            *_check_ids(vlm, prefix),
            *_check_difference(vlm, comparison["relative_difference"]),
        ],
    }


def describe(vlm: FrozenVLM) -> dict[str, Any]:
    """What the model is: family, classes, sizes and the prompt it reads."""
    processor = vlm.processor
    classes = {
        "model": vlm.model,
        "processor": processor,
        "image_processor": processor.image_processor,
        "tokenizer": vlm.tokenizer,
    }
    return {
        "family": vlm.model.config.model_type,
        **{f"{part}_class": type(item).__name__ for part, item in classes.items()},
        "layers": vlm.num_layers,
        "heads": vlm.num_heads,
        "maps": vlm.num_maps,
        "channels": vlm.num_channels,
        "hidden_size": vlm.hidden_size,
        "parameters": sum(weight.numel() for weight in vlm.model.parameters()),
        "dtype": str(vlm.dtype).removeprefix("torch."),
        "device": str(vlm.device),
        "prompt": vlm.render_prompt(),
    }


def compare_with_eager(vlm: FrozenVLM, prefix: Prefix) -> dict[str, Any]:
    """``prefill`` + ``attend`` against one whole eager pass per phrase, as F-LMM does it.

    Gives ``relative_difference`` (norm of the difference by norm of the eager maps, of all
    grids), the same ``per_layer`` and, for each way, seconds and peak extra bytes (``None`` where
    the platform does not tell).
    """
    with _measure(vlm.device) as attend:
        seen = vlm.attend(vlm.prefill(prefix.image_input), PHRASES)
    with _measure(vlm.device) as eager:
        passes = [read_eagerly(vlm, prefix, ids) for ids in seen.input_ids]
    rows = vlm.num_layers, -1
    got, expected = (
        torch.cat([item.flatten(2) for item in maps], 2).unflatten(1, rows).transpose(0, 1)
        for maps in (seen.grid_maps, [torch.stack(maps) for maps in zip(*passes)])
    )  # [L, P, A, cells of all grids]
    difference, norm = (item.flatten(1).norm(dim=1) for item in (got - expected, expected))
    return {
        "phrases": PHRASES,
        "relative_difference": (difference.norm() / norm.norm()).item(),
        "per_layer": (difference / norm).tolist(),
        "attend": attend,
        "eager": eager,
    }


@contextmanager
def _measure(device: torch.device) -> Iterator[dict[str, Any]]:
    """Seconds and peak extra bytes of a block, as a dict that is filled when it ends."""
    cost: dict[str, Any] = {}
    with PeakMemory(device) as memory:
        start = time.perf_counter()
        yield cost
        synchronise(device)
        cost["seconds"] = time.perf_counter() - start
    cost["peak_extra_bytes"] = memory.extra_bytes


@torch.no_grad()
def read_eagerly(vlm: FrozenVLM, prefix: Prefix, phrase_ids: Tensor) -> list[Tensor]:
    """Per grid the maps ``[L*A, h, w]`` of one phrase from one eager pass over everything."""
    words = phrase_ids.tolist()
    ids = [*prefix.input_ids.tolist(), *words]
    rows = [len(prefix) + row for row in range(*vlm.find_merged(words, (0, len(words))))]
    inputs = build_model_inputs(vlm, prefix.image_input.image, ids)
    with vlm.lock:  # beside other threads
        config = vlm.model.config
        parts = {"": config, **{name: getattr(config, name) for name in config.sub_configs}}
        before = {name: part._attn_implementation for name, part in parts.items() if part}
        vlm.model.set_attn_implementation("eager")
        try:
            output = vlm.model.model(**inputs, output_attentions=True, use_cache=False)
        finally:
            vlm.model.set_attn_implementation(before)
    layers = [layer[0, :, rows].float().to(vlm.device) for layer in output.attentions]
    is_max = vlm.token_merge == "max"
    merged = torch.cat([layer.amax(1) if is_max else layer.mean(1) for layer in layers])
    return gather_grids(merged[:, prefix.image_columns], prefix.image_input)


def build_model_inputs(vlm: FrozenVLM, image: Any, ids: Sequence[int]) -> dict[str, Tensor]:
    """What transformers' own model takes for S tokens ``ids`` that hold one picture, expanded."""
    made = run_processor(vlm, image)
    inputs = {
        name: value.to(vlm.device, vlm.dtype if value.is_floating_point() else None)
        for name, value in made.items()
    }
    more = len(ids) - inputs["input_ids"].shape[1]
    for name in {"token_type_ids", "mm_token_type_ids"} & set(inputs):
        text = vlm.family.suffix_type  # what follows
        inputs[name] = torch.nn.functional.pad(inputs[name], (0, more), value=text)
    inputs["input_ids"] = torch.tensor([list(ids)], device=vlm.device)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs


def run_processor(vlm: FrozenVLM, image: Any) -> dict[str, Tensor]:
    """What the model's own processor makes of a picture and the default prompt."""
    text = [vlm.family.write_for_processor(vlm.default_prompt)]
    options = vlm.family.image_options
    return dict(vlm.processor(images=[image], text=text, return_tensors="pt", **options))


def _check_ids(vlm: FrozenVLM, prefix: Prefix) -> list[str]:
    """What is read must be what the model's own processor writes."""
    expected = run_processor(vlm, prefix.image_input.image)["input_ids"][0].tolist()
    ids = prefix.input_ids.tolist()
    if ids == expected:
        return []
    pairs = enumerate(zip(ids, expected))
    place = next((place for place, (own, other) in pairs if own != other), len(expected))
    return [
        f"the prompt has {len(ids)} tokens, the processor writes {len(expected)}; they differ "
        f"from token {place} on: {vlm.tokenizer.decode(ids[place : place + 8])!r} instead of "
        f"{vlm.tokenizer.decode(expected[place : place + 8])!r}"
    ]


def _check_difference(vlm: FrozenVLM, difference: float) -> list[str]:
    """Phrases that are asked together must be seen as each alone."""
    is_half = vlm.dtype.itemsize < 4
    limit = HALF_TOLERANCE if is_half else TOLERANCE
    if difference <= limit:
        return []
    hint = "; --dtype float32 tells rounding from a fault" if is_half else ""
    return [
        f"attend differs from one eager pass per phrase by {difference:.1e}, more than "
        f"{limit:.0e}{hint}"
    ]


def format_report(report: dict[str, Any]) -> list[str]:
    """The report as lines for a terminal; the last one says ready, or what is wrong."""
    lines = [f"{report['name']}"]
    if "model" in report:
        facts = report["model"] | report["prefix"]
        prompt, grids = facts.pop("prompt"), facts.pop("grids")
        facts |= {
            f"grid {number}": f"{grid['size']} (h, w) over {grid['box']} px"
            for number, grid in enumerate(grids)
        }
        comparison = report["comparison"]
        facts["difference to eager"] = f"{comparison['relative_difference']:.1e}"
        for way in ("attend", "eager"):
            peak = comparison[way]["peak_extra_bytes"]
            memory = "not measured" if peak is None else f"{peak / 2**20:.0f} MiB extra"
            facts[way] = f"{comparison[way]['seconds']:.2f} s, {memory}"
        lines += [f"  {name:24}{value}" for name, value in facts.items()]
        lines += ["  prompt", *(f"    | {line}" for line in prompt.splitlines())]
        if any("differs from" in problem for problem in report["problems"]):
            values = enumerate(comparison["per_layer"])
            lines.append("  difference per layer")
            lines += [f"    layer {index:3}  {value:.1e}" for index, value in values]
    if report["problems"]:
        return lines + [f"not ready: {problem}" for problem in report["problems"]]
    return [*lines, "ready"]


def _load_picture(path: str | None) -> Any:
    """The picture to try, at most 448 px long; without a path a bright rectangle on a ramp."""
    if path is None:
        ramp = Image.linear_gradient("L").resize((448, 336))
        picture = Image.merge("RGB", [ramp] * 3)
        picture.paste((230, 60, 40), (250, 90, 390, 200))
        return picture
    picture = load_any_image(path)
    picture.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    return picture
