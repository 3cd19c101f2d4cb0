"""What an evaluation has done so far: one JSON line per image, on disk as soon as it is known.

Every process appends to a file of its own and reads all of them. A last line that was cut off, even
by kill -9, is dropped, so that its image is computed again. Every line ends with a checksum over
itself and the run it is of: a damaged, edited or foreign line is told and is in no figure.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from flmm.fingerprints import hash_bytes

_CHECKSUM_DIGITS = 16


class Journal:
    """The journal of one split.

    Args:
        folder: of this split's files. Its name holds a hash of all that decides the results, so
            that a changed setting starts a journal of its own, and is part of every checksum.

    Raises:
        ValueError: a whole line is not as it was written, or was written for another run.

    Attributes:
        records: image index -> record, of all processes and earlier runs.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"rank{rank}.jsonl"
        self.records: dict[int, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("rank*.jsonl")):
            self._read(path)
        self._file: TextIO | None = None

    def append(self, index: int, record: dict[str, Any]) -> None:
        """Write the record of one image and flush it."""
        if self._file is None:
            _cut_partial_line(self.path)
            self._file = self.path.open("a", encoding="utf-8")
        text = json.dumps([index, record])
        self._file.write(f"{text[:-1]}{self._sign(text.encode())}\n")
        self._file.flush()
        self.records[index] = record

    def close(self) -> None:
        """Close this process's file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _sign(self, text: bytes) -> str:
        """How the line of ``[index, record]`` ends, ``, "checksum"]``."""
        checksum = hash_bytes(self.folder.name.encode(), b"\n", text)[:_CHECKSUM_DIGITS]
        return f', "{checksum}"]'

    def _read(self, path: Path) -> None:
        """The whole lines of one file; what follows the last line break was cut off."""
        tail = len(self._sign(b""))
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            text = line[:-tail] + b"]"
            if line[-tail:] != self._sign(text).encode():
                raise ValueError(
                    f"{path}, line {number}, is not as this evaluation wrote it (its checksum does "
                    "not fit): the file was damaged or edited, or is of another run or version. "
                    "Take out this line to have its image computed again, or begin anew with "
                    "--restart"
                )
            index, record = json.loads(text)
            self.records[index] = record


def _cut_partial_line(path: Path) -> None:
    """Remove what follows the last line break, so that the next line stands alone."""
    if path.exists():
        content = path.read_bytes()
        with path.open("rb+") as file:
            file.truncate(content.rfind(b"\n") + 1)
