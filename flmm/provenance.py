"""Where a figure comes from: hashes of weights, versions of libraries, device.

A report says it, and a journal's name changes with it.
"""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

import flmm
from flmm.fingerprints import hash_json, sample_weights_hash

LIBRARIES = (
    *("torch", "transformers", "mmengine", "mmdet", "segment-anything", "pycocotools"),
    *("numpy", "pillow"),
)


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
        "reader": reader.config.name_or_path or reader.config.model_type,
        "reader_revision": getattr(reader.config, "_commit_hash", None),
        "reader_hash": sample_weights_hash(reader),
        "weights_hash": sample_weights_hash(model),
        "refiner_hash": None if model.sam is None else hash_json(model.sam.describe()),
    }
