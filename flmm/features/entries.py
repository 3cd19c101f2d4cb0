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
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from flmm.files import DiskFullError, measure_free, remove_leftovers, replace_file

Entry = dict[str, Tensor]

SUFFIX = ".safetensors"
_CHECKSUM = "checksum"
_LEFTOVER_SECONDS = 3600.0  # no write takes as long


GIGABYTE = 10**9
# Left free for checkpoints and logs, which a training cannot do without.
RESERVE_BYTES = 2 * GIGABYTE


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


class DiskBudget:
    """The room of a cache folder, whatever settings its parts belong to.

    Args:
        folder: of the whole cache.
        max_gb: limit of all files in it, in 10**9 bytes; trainings that fill it at the same moment
            may go beyond it by what they write between two measurements.

    Attributes:
        is_spent: there is no room; until :meth:`reopen`.
    """

    def __init__(self, folder: Path, max_gb: float) -> None:
        self.folder = folder
        self.max_bytes = int(max_gb * GIGABYTE)
        self.is_spent = False
        self._has_told = False
        self._share = 0  # bytes that may be written before the folder is measured again

    def allows(self, size: int) -> bool:
        """Whether a file of ``size`` bytes may be written, which is then counted."""
        if size > self._share:
            room = self.max_bytes - measure_files(self.folder)
            self._share = max(size, room // (2 * get_world_size()))
            if size > room:
                self.spend(f"it has reached max_gb={self.max_bytes / GIGABYTE:g}")
        free = measure_free(self.folder)
        if free < size + RESERVE_BYTES:
            self.spend(
                f"the disk has {format_gb(free)} free, of which "
                f"{format_gb(RESERVE_BYTES)} are left to checkpoints"
            )
        self._share -= size
        return not self.is_spent

    def spend(self, reason: str) -> None:
        """Write no more; told once."""
        self.is_spent = True
        if not self._has_told:
            self._has_told = True
            print_log(
                f"feature cache {self.folder} takes nothing more: {reason}. What is not in it is "
                "computed each time: make room, or raise max_gb",
                logger="current",
                level=logging.WARNING,
            )

    def reopen(self) -> None:
        """Somebody may have made room."""
        self.is_spent = False
        self._share = 0


def measure_files(folder: Path) -> int:
    """Bytes of the entries in a folder and in those within it."""
    size = 0
    for path in folder.rglob("*.safetensors*"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # renamed or deleted just now
            continue
    return size


def format_gb(size: float) -> str:
    """Bytes as text: "12.3 GB", small sizes with more digits."""
    amount = size / GIGABYTE
    return f"{amount:.1f} GB" if amount >= 1 or not size else f"{amount:.2g} GB"
