"""What features depend on, as hashes: weights, settings, pictures, texts.

In: a frozen reader or refiner, a picture, a continuation. Out: BLAKE2b digests of everything that
could change what they compute, so that no feature is taken for that of other settings. Every byte
of every weight counts; the hash of a large model costs seconds, once.
Not its duty: where features are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flmm.records import Continuation, ImageInput

DIGEST_BYTES = 16
_CHUNK_BYTES = 2**28  # of a tensor that is moved from its device at a time
_CONFIGS = ("text_config", "vision_config")


def hash_json(content: Any) -> str:
    """Hexadecimal digest of a JSON-able description."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()


def hash_tensors(named: Iterable[tuple[str, Tensor]]) -> tuple[str, int]:
    """Hexadecimal digest of names, dtypes, shapes and all values, and the number of bytes read.

    Args:
        named: names and tensors, on any devices; several are hashed at a time.

    Raises:
        ValueError: a tensor has no values here (offloaded by accelerate).
    """
    items = sorted(named, key=lambda item: item[0])
    for name, tensor in items:
        if tensor.is_meta:
            raise ValueError(
                f"weight {name} is offloaded to disk, but a feature cache hashes every weight: "
                "load the reader without offloading, or leave feature_cache out"
            )
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_hash_tensor, [tensor for _, tensor in items]))
    rows = [
        (name, str(tensor.dtype), list(tensor.shape), digest)
        for (name, tensor), digest in zip(items, digests)
    ]
    return hash_json(rows), sum(tensor.nbytes for _, tensor in items)


def _hash_tensor(tensor: Tensor) -> str:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    values = tensor.detach().reshape(-1)
    step = max(1, _CHUNK_BYTES // values.element_size())
    for start in range(0, len(values), step):
        chunk = values[start : start + step].cpu()
        digest.update(chunk.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def describe_reader(reader: Any) -> tuple[dict[str, Any], int]:
    """All that a reader's maps and text features depend on, but picture and text.

    Returns:
        a JSON-able description, weights as a digest; and how many bytes were hashed.
    """
    model = reader.model
    weights, size = hash_tensors([*model.named_parameters(), *model.named_buffers()])
    configs = [model.config, *(getattr(model.config, name, None) for name in _CONFIGS)]
    settings = {
        "model": type(model).__name__,
        "config": _strip(model.config.to_dict()),
        "attention": [getattr(item, "_attn_implementation", None) for item in configs],
        "weights": weights,
        "token_merge": reader.token_merge,
        "prompt": _render_prompt(reader),
        "tokenizer": _hash_tokenizer(reader.tokenizer),
        "image_processor": _describe_image_processor(reader.image_processor),
        "transformers": metadata.version("transformers"),
    }
    return settings, size


def describe_refiner(refiner: Any) -> tuple[dict[str, Any], int]:
    """The same of the refiner's image encoder."""
    encoder = refiner.sam.image_encoder
    named = [*encoder.named_parameters(), *encoder.named_buffers()]
    named += refiner.sam.named_buffers(recurse=False)  # how a picture is normalised
    weights, size = hash_tensors(named)
    settings = {
        "image_encoder": type(encoder).__name__,
        "img_size": encoder.img_size,
        "weights": weights,
    }
    return settings, size


def hash_picture(image: np.ndarray) -> str:
    """Digest of a uint8 picture ``[H, W, 3]``: of its pixels and its size."""
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def hash_image_input(image: ImageInput) -> str:
    """Digest of a picture and of what an image processor made of it.

    What the processor made follows from the picture, which is hashed in full, and from a handful
    of settings. To tell these apart, sums over all values do (a CRC and an exclusive or, 64 bits
    together); at ten times the size of the picture, a full hash would cost more than it tells.
    """
    values = image.pixel_values.cpu().contiguous().numpy()
    words = values.reshape(-1).view(np.uint32)
    made = {
        "shape": list(values.shape),
        "dtype": str(values.dtype),
        "grid": list(image.image_grid_thw),
        "crc": zlib.crc32(values.data),
        "xor": int(np.bitwise_xor.reduce(words)),
    }
    return hash_json([hash_picture(image.image), made])


def hash_continuation(picture: str, continuation: Continuation) -> str:
    """Digest of a continuation after a picture, which ``hash_image_input`` gave."""
    return hash_json([picture, continuation.text, continuation.spans])


def _strip(config: Any) -> Any:
    """A model's config without what does not change its results, such as where it was loaded."""
    if isinstance(config, dict):
        return {
            str(key): _strip(value)
            for key, value in config.items()
            if not str(key).startswith("_") and key != "transformers_version"
        }
    return [_strip(item) for item in config] if isinstance(config, (list, tuple)) else config


def _render_prompt(reader: Any) -> str:
    """The text around the picture, as the chat template renders it where there is one."""
    render = getattr(reader, "render_prompt", None)
    return reader.default_prompt if render is None else render()


def _hash_tokenizer(tokenizer: Any) -> str:
    """Digest of a fast tokenizer; how it pads and cuts a batch may change as it is used."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return hash_json({**content, "padding": None, "truncation": None})


def _describe_image_processor(processor: Any) -> Any:
    inner = getattr(processor, "image_processor", processor)
    return inner.to_dict() if hasattr(inner, "to_dict") else type(inner).__name__


__all__ = [
    "describe_reader",
    "describe_refiner",
    "hash_continuation",
    "hash_image_input",
    "hash_json",
    "hash_picture",
    "hash_tensors",
]
