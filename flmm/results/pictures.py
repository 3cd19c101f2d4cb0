"""The picture of a result, and phrases drawn on it: tinted masks, each with its label at its box.

A result keeps a reference to the picture's file, or its pixels where there is no file: a thousand
results of photographs would hold gigabytes of pixels that hardly anybody asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flmm.fingerprints import hash_picture
from flmm.images import load_image
from flmm.results.phrase import GroundedPhrase
from flmm.visualization import Color, overlay_mask, shorten_text

_MIN_FONT_PX = 11
_FONT_SHARE = 1 / 28  # of the picture's shorter side


@dataclass(frozen=True, eq=False)
class ResultPicture:
    """A picture that can be looked at once more; ``digest``: of a file's pixels."""

    source: Path | np.ndarray  # absolute, or uint8 RGB [H, W, 3]
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
        """Uint8 RGB ``[H, W, 3]``, if the file still holds that picture."""
        if isinstance(self.source, np.ndarray):
            return self.source
        pixels = np.asarray(load_image(self.source))
        if hash_picture(pixels) != self.digest:
            raise ValueError(
                f"{self.source} is another picture than the one that was grounded: its masks do "
                "not belong to it"
            )
        return pixels


def draw_phrases(
    image: np.ndarray,
    phrases: Sequence[GroundedPhrase],
    labels: Sequence[str],
    colors: Sequence[Color],
) -> Image.Image:
    """A picture, uint8 RGB ``[H, W, 3]``, with masks, small ones on top, a label above each box.

    ``labels`` and ``colors`` (RGB) have one per phrase; empty masks are not drawn.
    """
    drawn = np.array(image)
    shown = [index for index, phrase in enumerate(phrases) if not phrase.is_empty]
    for index in sorted(shown, key=lambda index: -phrases[index].area):
        x0, y0, x1, y1 = (int(edge) for edge in phrases[index].box_xyxy)
        part = np.s_[y0:y1, x0:x1]  # nothing lies outside the tight box
        drawn[part] = overlay_mask(drawn[part], phrases[index].mask[part], colors[index])
    picture = Image.fromarray(drawn)
    font = ImageFont.load_default(size=max(_MIN_FONT_PX, min(picture.size) * _FONT_SHARE))
    for index in shown:
        corner = phrases[index].box_xyxy[:2].tolist()
        _draw_label(picture, corner, labels[index], colors[index], font)
    return picture


def _draw_label(
    picture: Image.Image, corner: Sequence[float], text: str, color: Color, font: Any
) -> None:
    """Black on the phrase's colour; where there is no room above the box, inside it."""
    pen = ImageDraw.Draw(picture)
    text = shorten_text(text, picture.width - 6, font)
    width, height = font.getlength(text) + 6, sum(font.getmetrics())
    x = max(0.0, min(corner[0], picture.width - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    pen.text((x + 3, y), text, fill=(0, 0, 0), font=font)
