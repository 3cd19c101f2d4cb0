"""Where a figure comes from: hashes of weights, versions of libraries, device.

Two uses: a report says under what its figures were made, and a journal's fingerprint changes with
whatever could change them. Hashes of large frozen models sample each tensor, so that a 72B reader
costs seconds.
"""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

import flmm

LIBRARIES = (
    "torch",
    "transformers",
    "mmengine",
    "mmdet",
    "segment-anything",
    "pycocotools",
    "numpy",
    "pillow",
)
VALUES_PER_TENSOR = 64


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sample_weights_hash(module: nn.Module) -> str:
    """A hash of names, shapes, dtypes and some values of all parameters and buffers.

    Args:
        module: on any device; of each tensor ``VALUES_PER_TENSOR`` values, evenly spread, are
            read. Tensors that are offloaded (device "meta") count by name and shape only.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.numel() and tensor.device.type != "meta":
            step = max(1, tensor.numel() // VALUES_PER_TENSOR)
            values = tensor.detach().reshape(-1)[::step][:VALUES_PER_TENSOR]
            digest.update(values.to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()


def list_versions() -> dict[str, str]:
    """Versions of Python, flmm and the libraries that its results depend on."""
    versions = {"python": platform.python_version(), "flmm": flmm.__version__}
    versions |= {name: metadata.version(name) for name in LIBRARIES}
    return versions | {"torch": torch.__version__}  # with its CUDA version


def describe_device(device: torch.device) -> str:
    """The device's kind, and of a GPU its name."""
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return device.type + name


def describe_model(model: Any) -> dict[str, Any]:
    """What a model's results depend on: its reader, and every weight of it."""
    reader = model.vlm.model
    return {
        "reader": reader.config._name_or_path or reader.config.model_type,
        "reader_revision": getattr(reader.config, "_commit_hash", None),
        "reader_hash": sample_weights_hash(reader),
        "weights_hash": sample_weights_hash(model),
        "refiner_hash": None if model.sam is None else sample_weights_hash(model.sam.sam),
    }


__all__ = [
    "describe_device",
    "describe_model",
    "hash_file",
    "list_versions",
    "sample_weights_hash",
]
