"""How much room a feature cache may take: within the user's limit, and without filling the disk.

Other processes write into the same folder: each takes a share of what is left, and measures anew
when that is used up.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mmengine.dist import get_world_size
from mmengine.logging import print_log

from flmm.files import measure_free

GIGABYTE = 10**9
# Left free for checkpoints and logs, which a training cannot do without.
RESERVE_BYTES = 2 * GIGABYTE


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
