"""Phrases drawn on their picture: tinted masks, each with its label; masks to lay over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flmm.results.formats import encode_data_uri
from flmm.results.phrase import GroundedPhrase
from flmm.visualization import Color, overlay_mask, shorten_text

_MIN_FONT_PX = 11
_FONT_SHARE = 1 / 28  # of the picture's shorter side
_NIGHT: Color = (16, 18, 28)


def draw_phrases(
    image: np.ndarray,
    phrases: Sequence[GroundedPhrase],
    labels: Sequence[str],
    colors: Sequence[Color],
) -> Image.Image:
    """A picture, uint8 RGB ``[H, W, 3]``, with masks, small ones on top, a label at each box."""
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


def encode_areas(mask: np.ndarray, color: Color, alphas: tuple[int, int]) -> str:
    """A mask ``[H, W]`` to lay over its picture, as a data URI.

    Outside in night colour, inside and rim in ``color``; ``alphas`` of outside and inside, of 255.
    """
    import cv2

    width = max(1, round(max(mask.shape) / 300))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    inside = mask.astype(np.uint8)
    # The frame's edge is no rim: a mask that runs out of the picture is open there.
    image = Image.fromarray(2 * inside - cv2.erode(inside, kernel))
    image.putpalette([*_NIGHT, *color, *color])
    return encode_data_uri(image, transparency=bytes([*alphas, 255]), bits=2)
