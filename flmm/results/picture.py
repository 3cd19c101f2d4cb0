"""The picture of a result: a reference to its file, or its pixels where there is no file.

A thousand results of photographs would hold gigabytes of pixels that hardly anybody asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flmm.fingerprints import hash_picture
from flmm.images import load_image


@dataclass(frozen=True, eq=False)
class ResultPicture:
    """A picture that can be looked at once more.

    Attributes:
        source: absolute path, or uint8 RGB ``[H, W, 3]``.
        digest: of the file's pixels; ``None`` for an array.
    """

    source: Path | np.ndarray
    digest: str | None = None

    @classmethod
    def keep(cls, given: Any, pixels: np.ndarray) -> ResultPicture:
        """Remember what a person called ``given`` by its ``pixels``, uint8 RGB ``[H, W, 3]``."""
        try:
            is_file = isinstance(given, (str, Path)) and Path(given).is_file()
        except (OSError, ValueError):  # a data: address is no file name
            is_file = False
        return cls(Path(given).absolute(), hash_picture(pixels)) if is_file else cls(pixels)

    @property
    def name(self) -> str:
        """Name of the file, ``"picture"`` where there is none."""
        return self.source.name if isinstance(self.source, Path) else "picture"

    def load(self) -> np.ndarray:
        """Uint8 RGB ``[H, W, 3]``.

        Raises:
            ValueError: the file holds another picture by now.
            OSError: the file is gone.
        """
        if isinstance(self.source, np.ndarray):
            return self.source
        pixels = np.asarray(load_image(self.source))
        if hash_picture(pixels) != self.digest:
            raise ValueError(
                f"{self.source} is another picture than the one that was grounded: its masks do "
                "not belong to it"
            )
        return pixels
