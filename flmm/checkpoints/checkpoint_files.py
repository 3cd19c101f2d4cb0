"""Checkpoints of a training on disk: the broken ones told from the whole, the latest one found.

In: a work folder. Out: the latest checkpoint that a training can go on from. What is in a
checkpoint is the runner's duty.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from flmm.checkpoints.checkpoint import describe_error, register_safe_globals

TRAINING_STATE = "training_state"
RESUMABLE_KEYS = ("meta", "state_dict", "message_hub", "optimizer", TRAINING_STATE)
# Names the checkpoint that was written last, which may lie in another folder (``out_dir``).
POINTER = "last_checkpoint"


def find_latest_checkpoint(work_dir: str | Path, warn: Callable[[str], object]) -> Path | None:
    """The checkpoint that was written last, among those that a training can go on from.

    Args:
        work_dir: of the training; where it has none, the folder that its pointer names is looked
            at. ``best_*.pth`` hold weights alone and are not looked at.
        warn: told, for each file that is passed over, its name and the reason.
    """
    folder, pointer = Path(work_dir), Path(work_dir) / POINTER
    found = _find_in(folder, warn)
    if found is None and pointer.is_file():
        elsewhere = Path(pointer.read_text().strip()).parent
        found = None if elsewhere == folder.absolute() else _find_in(elsewhere, warn)
    return found


def _find_in(folder: Path, warn: Callable[[str], object]) -> Path | None:
    written: dict[Path, int] = {}
    for path in sorted(folder.glob("*.pth")):
        if not path.name.startswith("best_"):
            with _passing_over(path, warn):
                written[path] = read_training_state(path)["saved_at"]
    for path in sorted(written, key=written.__getitem__, reverse=True):
        with _passing_over(path, warn):
            check_content(path)
            return path
    return None


@contextlib.contextmanager
def _passing_over(path: Path, warn: Callable[[str], object]) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        warn(f"checkpoint {path} is passed over: {error}")


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
