"""A whole experiment at full size without weights: does everything run, how long, in how much?

The ordinary tools run, each in a process of its own: check, train, evaluate, export, demo. Out:
seconds and peak memory of each. Weights are random: masks and figures mean nothing.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flmm.benchmarks.harness import Row, check_device, describe_machine, run_apart, write_rows
from flmm.meters import read_peak_bytes
from flmm.readers.published_sizes import REHEARSED, write_published_model
from flmm.registry import MODELS
from flmm.toy.shape_files import write_dataset

# Sources: segment-anything's registry; sam2.1_hiera_l.yaml of facebookresearch/sam2.
REFINERS: dict[str, dict[str, Any]] = {
    "tiny": {"type": "SAMRefiner", "model_name": "tiny"},
    "sam-vit-l": {"type": "SAMRefiner", "model_name": "vit_l"},
    "sam2.1-hiera-l": {
        "type": "Sam2Refiner",
        "random_init": {
            "vision_config": {
                "backbone_channel_list": [1152, 576, 288, 144],
                "backbone_config": {
                    "model_type": "sam2_hiera_det_model",
                    "hidden_size": 144,
                    "num_attention_heads": 2,
                    "blocks_per_stage": [2, 6, 36, 4],
                    "embed_dim_per_stage": [144, 288, 576, 1152],
                    "num_attention_heads_per_stage": [2, 4, 8, 16],
                    "window_size_per_stage": [8, 4, 16, 8],
                    "global_attention_blocks": [23, 33, 43],
                },
            }
        },
    },
}
_SCENES = 40  # two of them are evaluated
_CONFIG = """# Written by tools/rehearse.py.
_base_ = [{base!r}]

reader = {reader!r}
data_root = {data!r}
weights = None
model = dict(
    model=dict(
        _delete_=True, type="FrozenVLM", name_or_path=reader, dtype={dtype!r}, random_init=True
    ),
    mask_head=dict(_delete_=True, type="UNetHead", normalize_input=True, upsample_input=64),
    sam=dict(_delete_=True, **{refiner!r}),
    keyword_selector=None,
)
selectors = ("brackets",)
_own = dict(data_root=data_root, image_processor=dict(_delete_=True, **{pictures!r}))
train_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(max_expressions=4, **_own),
)
val_dataloader = val_cfg = val_evaluator = None  # evaluating is a stage of its own
test_dataloader = dict(batch_size=1, num_workers=0, dataset=_own)
param_scheduler = []
train_cfg = dict(max_iters={steps})
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval={steps}, save_best=None)
)
"""


@dataclass(frozen=True)
class RehearsalSettings:
    """What is rehearsed.

    Attributes:
        reader: a key of :data:`flmm.readers.published_sizes.PUBLISHED_SIZES`.
        refiner: a key of ``REFINERS``.
        layers: of reader and vision tower, for a short version; ``None``: all.
        processor: folder or hub id of the reader's own; ``None``: made around the toy's tokenizer.
        steps: of the training.
        device: "cpu", or "cuda" for the first GPU.
    """

    reader: str = REHEARSED
    refiner: str = "sam-vit-l"
    layers: int | None = None
    processor: str | None = None
    steps: int = 2
    device: str = "cpu"
    dtype: str = "bfloat16"
    out: str = "outputs/rehearsal"

    def __post_init__(self) -> None:
        if self.refiner not in REFINERS:
            raise ValueError(f"--refiner {self.refiner}: choose of {', '.join(REFINERS)}")
        for name in ("steps", "layers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} {value}: give at least 1")
        check_device(self.device)


def rehearse(settings: RehearsalSettings, tools: Path) -> list[Row]:
    """Run every stage with the tools in a folder, print what it is and what it took.

    Per stage ``seconds`` and ``peak_gb`` (on a GPU its memory, else the process's).

    Raises:
        RuntimeError: a stage failed; what its tool said.
    """
    out = Path(settings.out).absolute()
    config, folder = write_experiment(settings, out, tools.absolute().parent)
    device, rows = torch.device(settings.device), []
    for stage, (tool, *arguments) in list_commands(settings, out, config, folder).items():
        print(f"\n== {stage}: python tools/{tool} {' '.join(arguments)}", flush=True)
        seconds, peak = run_apart(run_tool_file, str(tools / tool), arguments, settings.device)
        rows.append({"stage": stage, "seconds": seconds, "peak_gb": peak and peak / 1e9})
    what = f"{settings.reader}, {settings.layers or 'all'} layers, {settings.dtype}"
    write_rows("rehearsal", rows, out, f"{what} + {settings.refiner}; {describe_machine(device)}")
    return rows


def write_experiment(settings: RehearsalSettings, out: Path, root: Path) -> tuple[str, str]:
    """Write the reader's folder, a few drawn scenes and a config; gives config and reader."""
    reader = write_published_model(
        settings.reader, out / "reader", settings.layers, settings.processor
    )
    if not (out / "scenes").exists():
        write_dataset(out / "scenes", num_images=_SCENES, seed=7)
    text = _CONFIG.format(
        base=str(root / "configs/tiny/tiny_unet_sam_shapes.py"),
        reader=str(reader),
        data=str(out / "scenes"),
        dtype=settings.dtype,
        refiner=write_refiner(settings.refiner, out),
        pictures={"type": "ImageProcessorWrapper", "name_or_path": str(reader)},
        steps=settings.steps,
    )
    (out / "config.py").write_text(text)
    return str(out / "config.py"), str(reader)


def write_refiner(name: str, out: Path) -> dict[str, Any]:
    """A refiner's config, its random weights written first: a head is shared with their hash."""
    cfg = dict(REFINERS[name])
    if name == "tiny":
        return cfg
    path = out / "refiner"
    if "model_name" in cfg:
        path = path.with_suffix(".pth")
        torch.save(MODELS.build(cfg).sam.state_dict(), path)
        return cfg | {"checkpoint": str(path)}
    MODELS.build(cfg).sam.save_pretrained(path)
    return {"type": cfg["type"], "name_or_path": str(path)}


def list_commands(
    settings: RehearsalSettings, out: Path, config: str, reader: str
) -> dict[str, Sequence[str]]:
    """Stage -> tool and arguments."""
    work, checkpoint = str(out / "work"), str(out / f"work/iter_{settings.steps}.pth")
    device = ("--device", settings.device)
    random = ("--random-init", "--dtype", settings.dtype, "--json", str(out / "check.json"))
    return {
        "check": ("check_vlm.py", reader, *device, *random),
        "train": ("train.py", config, "--work-dir", work),
        "evaluate": ("eval_refcoco.py", config, checkpoint, "--splits", "val", "--work-dir", work),
        "export": ("export.py", config, checkpoint, str(out / "head"), "--overwrite"),
        "demo": (
            *("demo.py", "--samples", "1", "--config", config, "--checkpoint", checkpoint),
            *(*device, "--out", str(out / "demo")),
        ),
    }


def run_tool_file(tool: str, arguments: Sequence[str], device: str) -> tuple[float, int | None]:
    """Run a tool as its command line does; gives its seconds and the process's peak bytes."""
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.argv = [tool, *arguments]
    start = time.perf_counter()
    try:
        runpy.run_path(tool, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{Path(tool).name} ended with: {end.code}") from end
    return time.perf_counter() - start, read_peak_bytes(torch.device(device))
