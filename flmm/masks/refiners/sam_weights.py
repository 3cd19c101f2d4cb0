"""Builds a ``Sam`` by name and loads its weights, with errors that name the way out.

In: a model name and perhaps a checkpoint file; out: segment-anything's own ``Sam`` in eval mode.
"""

from __future__ import annotations

import logging
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from mmengine.logging import print_log
from safetensors import SafetensorError
from safetensors.torch import load_file
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from flmm.masks.refiners.tiny_sam import build_tiny_sam
from flmm.weights import describe_mismatch

TINY_WEIGHTS = Path(__file__).parents[2] / "assets" / "tiny_sam.safetensors"
_WIDTH_TO_NAME = {96: "tiny", 768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


def build_sam(model_name: str, checkpoint: str | Path | None = None) -> Sam:
    """A ``Sam`` in eval mode; arguments as of :class:`SAMRefiner`.

    Raises:
        ValueError: the name is unknown, or the file holds no weights of that architecture, or
            whole numbers or NaN in their place.
        FileNotFoundError: the file does not exist.
    """
    builders = {**sam_model_registry, "tiny": build_tiny_sam}
    if model_name not in builders:
        raise ValueError(f"unknown SAM {model_name!r}: choose one of {', '.join(sorted(builders))}")
    if checkpoint is None and model_name == "tiny" and TINY_WEIGHTS.is_file():
        checkpoint = TINY_WEIGHTS
    weights = None if checkpoint is None else _load_weights(Path(checkpoint).expanduser())
    sam = builders[model_name]()
    if weights is None:
        print_log(
            f"SAM {model_name!r} has random weights: give a checkpoint",
            logger="current",
            level=logging.WARNING,
        )
    else:
        _check_architecture(sam, weights, model_name, checkpoint)
        sam.load_state_dict(weights)
    return sam.eval()


def _load_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in ``path``, on the CPU; pickled code is never run."""
    if not path.is_file():
        raise FileNotFoundError(
            f"SAM checkpoint {path} does not exist: download it from "
            "https://github.com/facebookresearch/segment-anything#model-checkpoints or pass "
            "checkpoint=None for random weights"
        )
    try:
        if path.suffix == ".safetensors":
            weights: Any = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        raise ValueError(
            f"SAM checkpoint {path} cannot be read as a file of weights ({error}): "
            "download it again"
        ) from error
    if not isinstance(weights, dict) or not all(torch.is_tensor(item) for item in weights.values()):
        raise ValueError(
            f"SAM checkpoint {path} is no state dict (name to tensor): save sam.state_dict()"
        )
    return weights


def _check_architecture(
    sam: Sam, weights: dict[str, Tensor], model_name: str, checkpoint: str | Path | None
) -> None:
    problems = describe_mismatch(sam.state_dict(), weights)
    if not problems:
        return
    width = weights.get("image_encoder.pos_embed", torch.empty(0)).shape[-1]
    name = _WIDTH_TO_NAME.get(width)
    advice = "download it again" if name == model_name else f"it looks like model_name={name!r}"
    if name is None:
        advice = "give a checkpoint of segment-anything itself"
    raise ValueError(
        f"SAM checkpoint {checkpoint} does not hold a {model_name!r}: {len(problems)} tensors "
        f"cannot be used (for example {problems[0].strip()}): {advice}"
    )
