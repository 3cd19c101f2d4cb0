"""What the benchmarks run on: models of published sizes, noise, words, the toy on drawn scenes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flmm.checkpoints.checkpoint import load_weights
from flmm.config import load_config
from flmm.grounder import Grounder
from flmm.masks import SAMRefiner, UNetHead
from flmm.readers import FrozenVLM
from flmm.readers.published_sizes import write_published_model
from flmm.registry import DATASETS, MODELS
from flmm.toy.shape_files import write_dataset

TINY_CONFIG = "configs/tiny/tiny_unet_sam_shapes.py"
WORDS = ["large", "small", "red", "blue", "green", "circle", "square", "triangle", "star", "left"]


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
