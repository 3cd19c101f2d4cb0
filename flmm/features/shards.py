"""Entries of named tensors in safetensors files, shared by any number of processes.

In: a key and its tensors. Out: the same tensors, later, in this process or another. A file appears
under its name only when it is complete; every entry has a checksum of its own that is compared
whenever the entry is read. What is damaged is passed over, with one message for each file.
Not its duty: what a key means, how much room there is (see budget).
"""

from __future__ import annotations

import json
import logging
import uuid
import zlib
from pathlib import Path

import torch
from mmengine.logging import print_log
from safetensors.torch import save
from torch import Tensor

from flmm.features.budget import DiskBudget
from flmm.features.tensor_files import TensorFile
from flmm.files import DiskFullError, remove_leftovers, replace_file

Entry = dict[str, Tensor]

SUFFIX = ".safetensors"
_CHECKSUMS = "checksums"
_LEFTOVER_SECONDS = 3600.0  # no write takes as long


class ShardFolder:
    """The entries of one folder.

    Args:
        folder: made with the first entry that is written.
        budget: says whether there is room.
        shard_bytes: entries are gathered in memory up to so many bytes, then written as a file.
    """

    def __init__(self, folder: Path, budget: DiskBudget, shard_bytes: int) -> None:
        self.folder = folder
        self.budget = budget
        self.shard_bytes = shard_bytes
        # By file name: the file, its entries' checksums, and the parts of each entry.
        self._files: dict[str, tuple[TensorFile, dict[str, int], dict[str, list[str]]]] = {}
        self._places: dict[str, list[str]] = {}  # key -> names of the files that have it
        self._damaged: set[str] = set()
        self._unwritten: dict[str, Entry] = {}
        self._unwritten_bytes = 0
        remove_leftovers(folder, f"*{SUFFIX}", _LEFTOVER_SECONDS)
        self.refresh()

    def __len__(self) -> int:
        return len(self._places.keys() | self._unwritten.keys())

    @property
    def bytes_on_disk(self) -> int:
        """Size of the files that this process knows."""
        return sum(file.size for file, _, _ in self._files.values())

    def refresh(self) -> None:
        """Learn what other processes have written."""
        names = sorted(path.name for path in self.folder.glob(f"*{SUFFIX}"))
        for name in names:
            if name not in self._files and name not in self._damaged:
                self._open(name)

    def get(self, key: str) -> Entry | None:
        """The tensors of a key, or ``None``; copy, never change."""
        if key in self._unwritten:
            return self._unwritten[key]
        for name in list(self._places.get(key, ())):
            entry = self._read(name, key)
            if entry is not None:
                return entry
        return None

    def put(self, key: str, entry: Entry) -> None:
        """Keep an entry; it is on the disk after the next ``flush`` at the latest."""
        if self.budget.is_spent or key in self._unwritten:
            return
        self._unwritten[key] = entry
        self._unwritten_bytes += sum(tensor.nbytes for tensor in entry.values())
        if self._unwritten_bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory; where there is no room for it, it is dropped."""
        entries, self._unwritten = self._unwritten, {}
        self._unwritten_bytes = 0
        if not entries:
            return
        content = _serialise(entries)
        if not self.budget.allows(len(content)):
            return
        name = uuid.uuid4().hex + SUFFIX
        try:
            replace_file(self.folder / name, content)
        except DiskFullError as error:
            self.budget.spend(f"the system refuses to write ({error.reason})")
        else:
            self._open(name)

    def _open(self, name: str) -> None:
        path = self.folder / name
        try:
            file = TensorFile(path)
            checksums = json.loads(file.metadata[_CHECKSUMS])
            tensor_names = _group_by_key(file.names)
            if checksums.keys() != tensor_names.keys():
                raise ValueError("its list of entries is wrong")
        except FileNotFoundError:  # somebody tidied up
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._tell_damage(name, f"it is cut off or damaged ({error})")
            return
        self._files[name] = (file, checksums, tensor_names)
        for key in checksums:
            self._places.setdefault(key, []).append(name)

    def _read(self, name: str, key: str) -> Entry | None:
        file, checksums, tensor_names = self._files[name]
        parts = tensor_names[key]
        try:
            entry = dict(zip(parts, file.read([f"{key}/{part}" for part in parts])))
        except OSError as error:
            self._tell_damage(name, f"an entry cannot be read ({error})")
        else:
            if compute_checksum(key, entry) == checksums[key]:
                return entry
            self._tell_damage(name, "the checksum of an entry is wrong")
        self._places[key].remove(name)
        if not self._places[key]:
            del self._places[key]
        return None

    def _tell_damage(self, name: str, reason: str) -> None:
        if name not in self._damaged:
            self._damaged.add(name)
            # Level ERROR: a rank other than 0 shows nothing below, and it may be alone to see it.
            print_log(
                f"feature cache file {self.folder / name} is passed over where it is damaged: "
                f"{reason}. What it held is computed anew; the file may be deleted",
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


def _serialise(entries: dict[str, Entry]) -> bytes:
    tensors = {
        f"{key}/{name}": tensor for key, entry in entries.items() for name, tensor in entry.items()
    }
    checksums = {key: compute_checksum(key, entry) for key, entry in entries.items()}
    return save(tensors, {_CHECKSUMS: json.dumps(checksums)})


def _group_by_key(names: list[str]) -> dict[str, list[str]]:
    """Names "key/part" as the parts of each key."""
    groups: dict[str, list[str]] = {}
    for name in names:
        key, _, part = name.partition("/")
        groups.setdefault(key, []).append(part)
    return groups


__all__ = ["ShardFolder", "compute_checksum"]
