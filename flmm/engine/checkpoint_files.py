"""Checkpoint files: written whole or not at all, and the broken ones told from the whole.

In: bytes and a path, or a folder. Out: a file that is either complete or absent, and the latest
checkpoint that a training can go on from. A file appears under its name only after its last byte
is on the disk, so that a process that dies, or a disk that fills up, leaves the checkpoint before
it as it was. What is in a checkpoint is the runner's duty.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from flmm.engine.checkpoint import describe_error, register_safe_globals

TEMPORARY_SUFFIX = ".tmp"
TRAINING_STATE = "training_state"
RESUMABLE_KEYS = ("meta", "state_dict", "message_hub", "optimizer", TRAINING_STATE)
# No space, no quota, or the file system's or the process's limit of one file.
DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """A file did not find room; the message says which, and what is still whole."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether the system refused to write for want of room."""
    return isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS


def write_atomically(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file so that it is complete under its name, or not there.

    Raises:
        DiskFullError: there is no room; a file that had the name before is untouched.
        OSError: it cannot be written for another reason.
    """
    path = Path(path)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        if is_disk_full(error):
            raise DiskFullError(_describe_full_disk(path, len(content), error)) from error
        raise
    _sync_folder(path.parent)


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Delete what runs that were killed while they wrote have left; gives these files."""
    leftovers = sorted(Path(folder).glob(f"*.pth{TEMPORARY_SUFFIX}"))
    for path in leftovers:
        path.unlink()
    return leftovers


def find_latest_checkpoint(folder: str | Path, warn: Callable[[str], object]) -> Path | None:
    """The checkpoint that was written last, among those that a training can go on from.

    Args:
        folder: of the checkpoints; ``best_*.pth`` hold weights alone and are not looked at.
        warn: told, for each file that is passed over, its name and the reason.
    """
    written: dict[Path, int] = {}
    for path in sorted(Path(folder).glob("*.pth")):
        if not path.name.startswith("best_"):
            with _passing_over(path, warn):
                written[path] = read_training_state(path)["saved_at"]
    for path in sorted(written, key=written.__getitem__, reverse=True):
        with _passing_over(path, warn):
            check_content(path)
            return path
    return None


def read_training_state(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says about the run that wrote it; its tensors are not read.

    Raises:
        ValueError: the file is broken, or no training can go on from it.
    """
    register_safe_globals()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise ValueError(f"it is cut off or damaged ({describe_error(error)})") from error
    content = content if isinstance(content, dict) else {}
    missing = [key for key in RESUMABLE_KEYS if key not in content]
    if missing:
        raise ValueError(f"no training can go on from it: it lacks {', '.join(missing)}")
    return content[TRAINING_STATE]


def check_content(path: str | Path) -> None:
    """Compare every byte of a checkpoint with its checksums.

    Raises:
        ValueError: they differ.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"it is damaged (checksum of {damaged})")


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk too, where the file system can be asked for it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _passing_over(path: Path, warn: Callable[[str], object]) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        warn(f"checkpoint {path} is passed over: {error}")


def _describe_full_disk(path: Path, size: int, error: BaseException) -> str:
    free = shutil.disk_usage(path.parent).free
    whole = find_latest_checkpoint(path.parent, warn=lambda message: None)
    kept = f"{whole.name} is whole" if whole else "there is no complete checkpoint yet"
    return (
        f"no room for {path.name} ({getattr(error, 'strerror', error)}): it needs {size:,} bytes, "
        f"folder {path.parent} has {free:,} free. Training has stopped, no partial file is left "
        f"and {kept}: make room, then go on with --resume"
    )


__all__ = [
    "DISK_FULL_ERRORS",
    "RESUMABLE_KEYS",
    "TEMPORARY_SUFFIX",
    "TRAINING_STATE",
    "DiskFullError",
    "check_content",
    "find_latest_checkpoint",
    "is_disk_full",
    "read_training_state",
    "remove_leftovers",
    "write_atomically",
]
