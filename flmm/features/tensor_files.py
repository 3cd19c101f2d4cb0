"""Reads single tensors of a safetensors file, without mapping it into memory.

A mapped file that is cut off in use, or whose disk fails, ends the process (SIGBUS); a read that
comes back short is an error like any other. In: a path. Out: names, metadata, tensors.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_MAX_HEADER_BYTES = 10**8  # the format's own limit
_LENGTH_BYTES = 8  # of the header's length, at the start
_METADATA = "__metadata__"
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class TensorFile:
    """The header of a safetensors file, and the way to its tensors.

    Args:
        path: of the file, which is open only while it is read.

    Attributes:
        metadata: texts by name.
        size: of the file, in bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is cut off, or its header is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > min(self.size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
                raise ValueError("its header is cut off")
            header = json.loads(file.read(length))
        if not isinstance(header, dict) or not isinstance(header.get(_METADATA, {}), dict):
            raise ValueError("its header is none")
        self.metadata: dict[str, Any] = header.pop(_METADATA, {})
        self._start = _LENGTH_BYTES + length
        self._places = {name: self._locate(entry) for name, entry in header.items()}

    @property
    def names(self) -> list[str]:
        """Of the tensors."""
        return list(self._places)

    def read(self, names: list[str]) -> list[Tensor]:
        """Tensors in memory of their own.

        Raises:
            OSError: the file cannot be read, or has become shorter.
        """
        with self.path.open("rb") as file:
            return [self._read_one(file.fileno(), name) for name in names]

    def _locate(self, entry: Any) -> tuple[torch.dtype, list[int], int, int]:
        """Dtype, shape, offset in the file and bytes of a tensor."""
        try:
            dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
            begin, end = entry["data_offsets"]
            is_sound = all(type(side) is int and side >= 0 for side in (*shape, begin, end))
            is_sound = is_sound and end - begin == math.prod(shape) * dtype.itemsize
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"its header is damaged ({error!r:.80})") from error
        if not is_sound:
            raise ValueError("its header is damaged")
        if self._start + end > self.size:
            raise ValueError("it is cut off")
        return dtype, shape, self._start + begin, end - begin

    def _read_one(self, file: int, name: str) -> Tensor:
        dtype, shape, offset, size = self._places[name]
        content = torch.empty(size, dtype=torch.uint8)
        if os.preadv(file, [content.numpy().data], offset) != size:
            raise OSError("it has been cut off since it was opened")
        return content.view(dtype).reshape(shape)


__all__ = ["TensorFile"]
