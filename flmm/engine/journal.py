"""What an evaluation has done so far: one JSON line per image, on disk as soon as it is known.

An evaluation that is interrupted, even by kill -9, reads its journal and goes on with the images
that are not in it. Every process appends to a file of its own and reads all of them. A line that
was cut off is dropped, so that its image is computed again: nothing counts twice, nothing is lost.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TextIO

from mmengine.logging import print_log


def compute_fingerprint(content: Any) -> str:
    """Twelve hexadecimal digits that stand for a JSON-able description of a run."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Journal:
    """The journal of one split.

    Args:
        folder: of this split's files; made if missing. Its name holds the fingerprint of all
            that decides the results, so that a changed setting starts a journal of its own.
        rank: of this process.

    Attributes:
        records: image index -> record, of all processes and earlier runs.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"rank{rank}.jsonl"
        self.records: dict[int, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("rank*.jsonl")):
            self.records |= _read_lines(path)
        self._file: TextIO | None = None

    def append(self, index: int, record: dict[str, Any]) -> None:
        """Write the record of one image and flush it."""
        if self._file is None:
            _cut_partial_line(self.path)
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(json.dumps([index, record]) + "\n")
        self._file.flush()
        self.records[index] = record

    def close(self) -> None:
        """Close this process's file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _read_lines(path: Path) -> dict[int, dict[str, Any]]:
    """The whole lines of one file; broken ones are told and left out."""
    records: dict[int, dict[str, Any]] = {}
    broken = 0
    for line in path.read_bytes().split(b"\n"):
        try:
            index, record = json.loads(line) if line else (None, None)
        except (ValueError, TypeError):
            broken += 1
            continue
        if isinstance(index, int) and isinstance(record, dict):
            records[index] = record
    if broken:
        print_log(
            f"{path}: {broken} broken line(s) left out, their images are computed again",
            logger="current",
        )
    return records


def _cut_partial_line(path: Path) -> None:
    """Remove what follows the last line break, so that the next line stands alone."""
    if path.exists():
        content = path.read_bytes()
        with path.open("rb+") as file:
            file.truncate(content.rfind(b"\n") + 1)


__all__ = ["Journal", "compute_fingerprint"]
