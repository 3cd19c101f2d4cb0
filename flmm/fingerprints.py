"""Every hash of flmm: of files, settings, weights, pictures and texts.

What others check again (files beside their SHA-256) is SHA-256; what only flmm compares is BLAKE2b.
Weights are hashed whole where features are kept under the hash, and sampled where a report or a
shared head names a model: 64 values or bytes of every tensor, so that 72B parameters cost seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flmm.records import Continuation, ImageInput

DIGEST_BYTES = 16
_SAMPLES = 64  # values or bytes of a tensor
_GREATEST_HEADER = 10**8  # bytes, as safetensors itself has it
_INDEX = "model.safetensors.index.json"
_CHUNK_BYTES = 2**28  # of a tensor that is moved from its device at a time
_CONFIGS = ("text_config", "vision_config")


def hash_bytes(*parts: bytes) -> str:
    """SHA-256 of bytes one after the other, hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_json(content: Any) -> str:
    """Digest of a JSON-able description, 32 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()


def hash_tensors(named: Iterable[tuple[str, Tensor]]) -> tuple[str, int]:
    """Hexadecimal digest of names, dtypes, shapes and all values, and the number of bytes read.

    The tensors may be on any devices; several are hashed at a time.

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


def sample_weights_hash(module: nn.Module) -> str:
    """SHA-256 of names, shapes, dtypes and some values of all parameters and buffers.

    Of each tensor 64 values, evenly spread, are read. Tensors that are offloaded (device "meta")
    count by name and shape only.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.numel() and tensor.device.type != "meta":
            step = max(1, tensor.numel() // _SAMPLES)
            values = tensor.detach().reshape(-1)[::step][:_SAMPLES]
            digest.update(values.to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()


def list_weight_files(folder: Path) -> list[Path]:
    """The safetensors of a model's folder, as its index names them where it has one."""
    if (folder / _INDEX).is_file():
        names = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / Path(name).name for name in sorted(set(names))]
    return sorted(folder.glob("*.safetensors"))


def sample_files_hash(folder: Path) -> str | None:
    """Digest of a folder's safetensors, the same however they are split; ``None``: there are none.

    Of every tensor, name, dtype, shape and 64 bytes from its middle count: a fine-tuned model is
    not its base.

    Raises:
        ValueError: a file is cut off or damaged.
    """
    rows = sorted(row for path in list_weight_files(folder) for row in _sample_file(path))
    return hash_json(rows) if rows else None


def _sample_file(path: Path) -> Iterator[tuple[str, str, list[int], str]]:
    """Name, dtype, shape and a few bytes (hexadecimal) of each tensor of a file.

    Source of the layout: https://github.com/huggingface/safetensors#format.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > _GREATEST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
            begin = file.tell()
            for name, tensor in header.items():
                if name != "__metadata__":
                    first, last = tensor["data_offsets"]
                    if not 0 <= first <= last:
                        raise ValueError(f"{name} lies nowhere")
                    middle = max(first, min((first + last) // 2, last - _SAMPLES))
                    file.seek(begin + middle)
                    sample = file.read(min(_SAMPLES, last - middle))
                    if len(sample) < min(_SAMPLES, last - first):
                        raise ValueError(f"{name} is cut off")
                    yield name, tensor["dtype"], tensor["shape"], sample.hex()
    except (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"the reader's {path} is missing, cut off or damaged: download it again"
        ) from error


def fingerprint_reader(reader: Any) -> tuple[dict[str, Any], int]:
    """A JSON-able description of all that a reader's maps and text features depend on, but picture
    and text; weights as a digest. And how many bytes were hashed.
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
        "prompt": reader.render_prompt(),
        "tokenizer": _hash_tokenizer(reader.tokenizer),
        "image_processor": _describe_image_processor(reader.image_processor),
        "transformers": metadata.version("transformers"),
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
        "grids": [(grid.size, grid.box) for grid in image.grids],
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


def _hash_tokenizer(tokenizer: Any) -> str:
    """Digest of a fast tokenizer; how it pads and cuts a batch may change as it is used."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return hash_json({**content, "padding": None, "truncation": None})


def _describe_image_processor(processor: Any) -> Any:
    inner = getattr(processor, "image_processor", processor)
    return inner.to_dict() if hasattr(inner, "to_dict") else type(inner).__name__
