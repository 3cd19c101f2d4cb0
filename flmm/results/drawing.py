"""Phrases drawn on their picture: tinted masks, each with its label at its box.

In: a picture and records. Out: a PIL picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flmm.results.phrase import GroundedPhrase
from flmm.visualization import Color, overlay_mask, shorten_text

_MIN_FONT_PX = 11
_FONT_SHARE = 1 / 28  # of the picture's shorter side


def draw_phrases(
    image: np.ndarray,
    phrases: Sequence[GroundedPhrase],
    labels: Sequence[str],
    colors: Sequence[Color],
) -> Image.Image:
    """A picture with masks, small ones on top, and a label above each box.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        phrases: P of them; empty masks are not drawn.
        labels: P texts.
        colors: P of them, RGB.
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
