"""Files that are complete under their name, or not there.

They are written beside their place, flushed to the disk and then renamed, so that a process that
dies, or a disk that fills up, leaves what was there before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"
# No space, no quota, or the file system's or the process's limit of one file.
_DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """A file did not find room; the message says which, ``reason`` in the system's own words."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error of the system's means that there is no room."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL_ERRORS


def replace_file(path: str | Path, content: bytes | memoryview, is_shared: bool = False) -> None:
    """Write a file so that it is complete under its name, or not there; folders are made.

    Args:
        is_shared: several processes may write this name at once, and the last one stays; nothing is
            lost if a machine without power leaves it cut off (an entry of a cache), so that nobody
            waits for the disk. Else two processes must not write one name at once.

    Raises:
        DiskFullError: there is no room; a file that had the name before is untouched.
        OSError: it cannot be written for another reason; the same holds.
    """
    path = Path(path)
    own = f".{uuid.uuid4().hex}" if is_shared else ""
    temporary = path.with_name(path.name + own + TEMPORARY_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            if not is_shared:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and is_disk_full(error):
            reason = error.strerror or str(error)
            raise DiskFullError(
                f"no room for {path.name} ({reason}): it needs {len(content):,} bytes, folder "
                f"{path.parent} has {measure_free(path.parent):,} free; no partial file is left",
                reason,
            ) from error
        raise
    if is_shared:
        return
    with contextlib.suppress(OSError):  # the new name on the disk too, where that can be asked for
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def measure_free(folder: str | Path) -> int:
    """Bytes that are free where a folder is, or would be."""
    folder = Path(folder).absolute()
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def remove_leftovers(folder: str | Path, pattern: str, min_age_s: float = 0.0) -> list[Path]:
    """Delete, and list, what processes that were killed while they wrote have left.

    Args:
        pattern: of the files' own names, such as "*.pth".
        min_age_s: seconds since the last byte; where others may be writing now, longer than any
            write takes.
    """
    deleted = []
    for path in sorted(Path(folder).glob(pattern + TEMPORARY_SUFFIX)):
        with contextlib.suppress(FileNotFoundError):  # another process tidies up too
            # A clock of another machine may be ahead: without a least age every file goes.
            if min_age_s and time.time() - path.stat().st_mtime < min_age_s:
                continue
            path.unlink()
            deleted.append(path)
    return deleted
