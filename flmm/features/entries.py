"""Entries of named tensors, each a safetensors file, shared by any number of processes.

A file appears under its name only when it is complete, and its checksum is compared whenever it is
read: what is damaged is passed over with a message, computed anew and then replaced. Files are
read, not mapped into memory, so that one that is cut off in use ends no process.
"""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

import torch
from mmengine.logging import print_log
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from flmm.features.budget import DiskBudget, measure_files
from flmm.files import DiskFullError, remove_leftovers, replace_file

Entry = dict[str, Tensor]

SUFFIX = ".safetensors"
_CHECKSUM = "checksum"
_LEFTOVER_SECONDS = 3600.0  # no write takes as long


class EntryFolder:
    """The entries of one folder; where the budget has no room, nothing is kept."""

    def __init__(self, folder: Path, budget: DiskBudget) -> None:
        self.folder = folder
        self.budget = budget
        self._told: set[Path] = set()
        remove_leftovers(folder, f"*/*{SUFFIX}.*", _LEFTOVER_SECONDS)

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob(f"*/*{SUFFIX}"))

    @property
    def bytes_on_disk(self) -> int:
        """Size of all entries."""
        return measure_files(self.folder)

    def get(self, key: str) -> Entry | None:
        """The tensors of a key, or ``None``."""
        path = self._place(key)
        try:
            entry = load(path.read_bytes())
            if int(entry.pop(_CHECKSUM)) != compute_checksum(key, entry):
                raise ValueError("its checksum is wrong")
        except FileNotFoundError:
            return None
        except (
            OSError,
            SafetensorError,
            LookupError,
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:
            self._tell_damage(path, error)
            return None
        return entry

    def put(self, key: str, entry: Entry) -> None:
        """Keep an entry, if there is room for it."""
        if self.budget.is_spent:
            return
        content = save(entry | {_CHECKSUM: torch.tensor(compute_checksum(key, entry))})
        if not self.budget.allows(len(content)):
            return
        try:
            replace_file(self._place(key), content, is_shared=True)
        except DiskFullError as error:
            self.budget.spend(f"the system refuses to write ({error.reason})")

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def _tell_damage(self, path: Path, error: Exception) -> None:
        if path in self._told:
            return
        self._told.add(path)
        # Level ERROR: a rank other than 0 shows nothing below, and it may be alone to see it.
        print_log(
            f"feature cache file {path} is passed over, it is cut off or damaged ({error}). What "
            "it held is computed anew",
            logger="current",
            level=logging.ERROR,
        )


def compute_checksum(key: str, entry: Entry) -> int:
    """CRC-32 of an entry: its key, and names, dtypes, shapes and bytes of its tensors."""
    checksum = zlib.crc32(key.encode())
    for name, tensor in sorted(entry.items()):
        header = f"{name} {tensor.dtype} {list(tensor.shape)}"
        checksum = zlib.crc32(header.encode(), checksum)
        values = tensor.contiguous().reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(values.numpy().data, checksum)
    return checksum
