"""Checkpoint files: written whole or not at all, and the broken ones told from the whole.

In: bytes and a path, or a folder. Out: a file that is either complete or absent (see
:mod:`flmm.files`), and the latest checkpoint that a training can go on from, also where the
disk is full. What is in a checkpoint is the runner's duty.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from flmm import files as atomic_files
from flmm.checkpoints.checkpoint import describe_error, register_safe_globals
from flmm.files import DiskFullError, is_disk_full, replace_file

TRAINING_STATE = "training_state"
RESUMABLE_KEYS = ("meta", "state_dict", "message_hub", "optimizer", TRAINING_STATE)


def write_atomically(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file of a training so that it is complete under its name, or not there.

    Raises:
        DiskFullError: there is no room; the message also names the checkpoint that is whole.
        OSError: it cannot be written for another reason.
    """
    try:
        replace_file(path, content)
    except DiskFullError as error:
        kept = describe_latest_checkpoint(Path(path).parent)
        message = f"{error} and {kept}: make room, then go on with --resume"
        raise DiskFullError(message, error.reason) from error.__cause__


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Delete what runs that were killed while they wrote have left; gives these files."""
    return atomic_files.remove_leftovers(folder, "*.pth")


def describe_latest_checkpoint(folder: str | Path) -> str:
    """Half a sentence for the message of a run that had to stop."""
    whole = find_latest_checkpoint(folder, warn=lambda message: None)
    return f"{whole.name} is whole" if whole else "there is no complete checkpoint yet"


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

    Returns:
        the state of the training; ``config_text`` is the config it ran with.

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
    text = content.get("meta", {}).get("cfg", "")
    return {**content[TRAINING_STATE], "config_text": text}


def check_content(path: str | Path) -> None:
    """Compare every byte of a checkpoint with its checksums.

    Raises:
        ValueError: they differ.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"it is damaged (checksum of {damaged})")


@contextlib.contextmanager
def _passing_over(path: Path, warn: Callable[[str], object]) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        warn(f"checkpoint {path} is passed over: {error}")


__all__ = [
    "RESUMABLE_KEYS",
    "TRAINING_STATE",
    "DiskFullError",
    "check_content",
    "describe_latest_checkpoint",
    "find_latest_checkpoint",
    "is_disk_full",
    "read_training_state",
    "remove_leftovers",
    "write_atomically",
]
