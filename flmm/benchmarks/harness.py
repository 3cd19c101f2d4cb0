"""What benchmarks run on, and how they are timed, set apart, tabled and written.

In: settings from the command line and functions that measure. Out: models of published sizes, noise
and words; rows, tables on the screen, ``<name>.json`` and ``<name>.md`` in a folder.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from flmm.checkpoints.checkpoint import load_weights
from flmm.config import load_config
from flmm.grounder import Grounder
from flmm.masks import SAMRefiner, UNetHead
from flmm.meters import time_call
from flmm.provenance import describe_device, list_versions
from flmm.readers import FrozenVLM
from flmm.readers.published_sizes import PUBLISHED_SIZES, write_published_model
from flmm.registry import DATASETS, MODELS
from flmm.tables import format_markdown, format_text
from flmm.toy.shape_files import write_dataset

Row = dict[str, Any]
TINY_CONFIG = "configs/tiny/tiny_unet_sam_shapes.py"
WORDS = ["large", "small", "red", "blue", "green", "circle", "square", "triangle", "star", "left"]
# Of reading: a bare prefill, F-LMM's way, ours. "joined": all expressions in one text, each seeing
# those before it (F-LMM's --concat).
WAYS = ("floor", "flmm", "flmm joined", "ours", "ours joined")
# The same maps within float32's rounding; half precision rounds far coarser.
TOLERANCES = {"float32": 1e-4, "float16": 5e-2, "bfloat16": 2e-1}
_CHOICES = {
    "model": tuple(PUBLISHED_SIZES),
    "ways": WAYS,
    "dtype": tuple(TOLERANCES),
    "sam": ("tiny", "vit_b", "vit_l", "vit_h"),
}

# In the files alone: with them a table is wider than a screen.
_DETAILS = {
    *("model", "layers", "repeats", "max_passes", "device", "dtype", "low_s", "high_s", "rest_s"),
    *("images_per_s", "expressions_per_s", "gpu_percent", "largest_mb", "largest_shape"),
    *("extrapolated", "difference"),
}


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured, and on what.

    Attributes:
        model, layers: published size, with random weights; ``None``: all layers.
        tokens: image tokens of the reading.
        expressions: numbers of expressions.
        max_passes: of F-LMM's way in one run; more are scaled up, and said to be extrapolated.
        device, dtype: of the reader.
        every_pair: all sizes with all numbers, as always on a GPU; else all sizes with
            ``expressions[0]``, and the first size with every number.
    """

    model: str = "width-1024"
    layers: int | None = None
    tokens: Sequence[int] = (1000, 300, 2000, 4000, 8000)
    expressions: Sequence[int] = (7, 1, 30)
    ways: Sequence[str] = WAYS
    repeats: int = 3
    max_passes: int = 7
    sam: str = "vit_b"
    device: str = "cpu"
    dtype: str = "float32"
    out: str = "outputs/benchmark"
    every_pair: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            given = getattr(self, name)
            for value in [given] if isinstance(given, str) else given:
                if value not in choices:
                    raise ValueError(f"--{name} {value}: choose of {', '.join(choices)}")
        counts = {"tokens": self.tokens, "expressions": self.expressions}
        counts |= {"repeats": [self.repeats], "max-passes": [self.max_passes]}
        counts |= {"layers": [] if self.layers is None else [self.layers]}
        for name, values in counts.items():
            if any(value < 1 for value in values):
                raise ValueError(f"--{name} {' '.join(map(str, values))}: give numbers above 0")
        check_device(self.device)

    @property
    def torch_device(self) -> torch.device:
        """The device as torch knows it."""
        return torch.device(self.device)


def check_device(name: str) -> None:
    """Raise ValueError for a device that torch does not know or see."""
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ValueError(f"--device {name}: give cpu, cuda or cuda:1") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: torch sees no GPU here; give --device cpu")


def build_reader(
    size: str,
    layers: int | None = None,
    dtype: str = "float32",
    device: torch.device | str = "cpu",
    **options: Any,
) -> FrozenVLM:
    """A reader of a published size with random weights, drawn on ``device``; always the same there.

    ``options``: ``context`` in tokens, and further arguments of the reader.
    """
    with tempfile.TemporaryDirectory() as folder, torch.device(device):
        write_published_model(size, folder, layers, context=options.pop("context", None))
        cfg = {"type": "FrozenVLM", "name_or_path": folder, "random_init": True, "dtype": dtype}
        reader: FrozenVLM = MODELS.build(cfg | options)
    return reader


def build_grounder(size: str, layers: int | None, sam: str, device: torch.device) -> Grounder:
    """A reader of a published size, F-LMM's mask head and a SAM; always the same weights."""
    torch.manual_seed(0)
    reader = build_reader(size, layers)
    head = UNetHead(in_channels=reader.num_maps, normalize_input=True, upsample_input=64)
    return Grounder(reader, head, SAMRefiner(sam)).to(device).eval()


def make_image(reader: FrozenVLM, image_tokens: int) -> np.ndarray:
    """Noise, uint8 RGB ``[H, W, 3]``, that becomes about so many image tokens, 3 : 4."""
    pictures = reader.processor.image_processor
    # Models of one resolution see as many tokens of any picture.
    factor = getattr(pictures, "patch_size", 14) * getattr(pictures, "merge_size", 2)
    rows = max(1, round((image_tokens * 3 / 4) ** 0.5))
    shape = (rows * factor, max(1, round(image_tokens / rows)) * factor, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def make_expressions(count: int) -> list[str]:
    """Different expressions of four words, the same in every process."""
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, 4)) for _ in range(count)]


def build_toy(
    folder: str | Path, scenes: int, device: torch.device, dtype: str = "float32", **drawn: Any
) -> tuple[Any, Any]:
    """The embedded model, and the split "val" (a twentieth) of scenes that it has not seen."""
    root = Path(folder) / "scenes"
    if not root.exists():
        write_dataset(root, num_images=scenes, seed=7, **drawn)
    config = load_config(TINY_CONFIG, {"data_root": str(root), "model.model.dtype": dtype})
    model = MODELS.build(config.model)
    load_weights(model, config.weights)
    cfg = {**config.test_dataloader.dataset, "split": "val", "text_mode": "all"}
    return model.to(device).eval(), DATASETS.build(cfg)


def describe_machine(device: torch.device) -> str:
    """Where figures were measured."""
    return f"{describe_device(device)}, {platform.machine()}, {torch.get_num_threads()} threads"


def write_rows(name: str, rows: Sequence[Row], folder: Path, machine: str) -> None:
    """Print rows of any keys as a table, and write them with all details as JSON and Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "versions": list_versions(), "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / f"{name}.md").write_text(f"{machine}\n\n{format_markdown(list_cells(rows))}\n")
    shown = [{key: value for key, value in row.items() if key not in _DETAILS} for row in rows]
    print(f"\n{name} ({machine})\n{format_text(list_cells(shown))}\n", flush=True)


def list_cells(rows: Sequence[Row]) -> list[list[str]]:
    """Header and cells; a column that a row has not is "-"."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    titles = [f"{key[:-2]} s" if key.endswith("_s") else key for key in keys]
    cells = [[_format(row.get(key)) for key in keys] for row in rows]
    return [[title.replace("_", " ") for title in titles], *cells]


def _format(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def compare_calls(
    what: str, calls: dict[str, Callable[[], Any]], device: torch.device, repeats: int
) -> list[Row]:
    """Rows of calls that take turns after a call each, so that a busy moment hits all of them."""
    for call in calls.values():
        call()
    rounds = [
        {case: time_call(call, device) for case, call in calls.items()} for _ in range(repeats)
    ]
    return build_rows(what, {case: [one[case] for one in rounds] for case in calls})


def build_rows(what: str, seconds: dict[str, list[float]]) -> list[Row]:
    """One row per case with its seconds; ``ratio`` is the median against that of the first."""
    rows: list[Row] = []
    for case, values in seconds.items():
        row: Row = {"what": what, "case": case, **summarise_seconds(values)}
        row["ratio"] = row["median_s"] / rows[0]["median_s"] if rows else 1.0
        rows.append(row)
    return rows


def summarise_seconds(seconds: Sequence[float]) -> dict[str, float]:
    """``median_s``, ``low_s`` and ``high_s``."""
    return {"median_s": median(seconds), "low_s": min(seconds), "high_s": max(seconds)}


def run_apart(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a module's function in a process of its own, whose memory nothing else has touched.

    Raises:
        MemoryError: the machine or the GPU had too little.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        try:
            return pool.submit(call, *arguments).result()
        except BrokenProcessPool as error:
            raise MemoryError("its process was killed, as those are that take too much") from error
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise MemoryError("ran out of memory") from error
            raise
