"""Pictures, masks and heat maps as the browser shows them: PNG or JPEG in data URIs.

In: arrays. Out: strings. A data URI travels with the update it belongs to, so that nothing of a
visitor lies on the disk or behind an address that somebody else could ask for.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from flmm.geometry import resize_maps
from flmm.visualization import Color, colorize_map

_SMALL_PIXELS = 600 * 600  # up to here a picture is sent without loss
_HEAT_SIDE_PX = 256  # the browser smooths what is larger
_NIGHT: Color = (16, 18, 28)


def encode_picture(image: Image.Image) -> str:
    """An RGB picture as data URI."""
    if image.width * image.height <= _SMALL_PIXELS:
        return _encode(image, "PNG")
    return _encode(image, "JPEG", quality=90, subsampling=0)


def encode_tint(mask: np.ndarray, color: Color) -> str:
    """A mask ``[H, W]`` as a rim and a tint; the outside is clear."""
    return _encode_areas(mask, color, (0, 72))


def encode_spotlight(mask: np.ndarray, color: Color) -> str:
    """A mask ``[H, W]`` as a rim; the outside is dimmed, the inside nearly clear."""
    return _encode_areas(mask, color, (158, 40))


def encode_heat(heat_map: np.ndarray, size: tuple[int, int]) -> str:
    """A map ``[h, w]`` of any range as colours, clearer where it is low.

    Args:
        heat_map: float ``[h, w]``.
        size: (H, W) of the picture below it.
    """
    scale = min(1.0, _HEAT_SIDE_PX / max(size))
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    values = resize_maps(torch.from_numpy(heat_map.astype(np.float32))[None], small)[0].numpy()
    strength = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
    alpha = np.rint(255 * (0.42 + 0.43 * strength)).astype(np.uint8)
    colors = colorize_map(heat_map, small)
    return _encode(Image.fromarray(np.dstack([colors, alpha])), "PNG")


def _encode_areas(mask: np.ndarray, color: Color, alphas: tuple[int, int]) -> str:
    """Outside in night colour, inside and rim in ``color``; ``alphas`` of outside and inside."""
    width = max(1, round(max(mask.shape) / 300))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    inside = mask.astype(np.uint8)
    # The frame's edge is no rim: a mask that runs out of the picture is open there.
    areas = 2 * inside - cv2.erode(inside, kernel)
    image = Image.fromarray(areas)
    image.putpalette([*_NIGHT, *color, *color])
    return _encode(image, "PNG", transparency=bytes([*alphas, 255]), bits=2)


def _encode(image: Image.Image, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{data}"


__all__ = ["encode_heat", "encode_picture", "encode_spotlight", "encode_tint"]
