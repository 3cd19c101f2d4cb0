"""Whatever a person calls a picture, as 8-bit RGB.

In: PIL image of any mode, path, bytes, numpy array. Out: ``PIL.Image`` in mode RGB, upright.
Not its duty: sizes for a model, normalisation, the network.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_WANTED = "give a PIL image, a path, bytes, or an array [H, W], [H, W, 3] or [H, W, 4]"


def load_image(source: Any) -> Image.Image:
    """An upright 8-bit RGB picture.

    The EXIF orientation is applied, transparency is laid over white, 16-bit grey (``I;16``,
    ``I``, ``uint16``) is scaled by 1/257, floats in [0, 1] by 255.

    Args:
        source: PIL image, path (``str`` or ``Path``), encoded bytes, or array ``[H, W]``,
            ``[H, W, 1]``, ``[H, W, 3]`` (RGB), ``[H, W, 4]`` (RGBA).

    Raises:
        TypeError: ``source`` is none of these.
        FileNotFoundError: the path names no file.
        ValueError: the file or the bytes hold no picture, or it has no pixels.
    """
    if isinstance(source, np.ndarray):
        image = _image_from_array(source)
    elif isinstance(source, Image.Image):
        image = source
    elif isinstance(source, (str, Path)):
        image = _open_path(Path(source))
    elif isinstance(source, (bytes, bytearray, memoryview)):
        image = _open_stream(io.BytesIO(source), f"{len(source)} bytes")
    else:
        raise TypeError(f"{type(source).__name__} is not an image: {_WANTED}")
    if 0 in image.size:
        raise ValueError(f"the image has no pixels (height {image.height}, width {image.width})")
    return _convert_to_rgb(ImageOps.exif_transpose(image))


def _open_path(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"no image file at {str(path)!r}")
    with path.open("rb") as stream:
        return _open_stream(stream, repr(str(path)))


def _open_stream(stream: Any, name: str) -> Image.Image:
    try:
        image = Image.open(stream)
        image.load()
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,
    ) as error:
        raise ValueError(f"{name} cannot be read as an image ({error})") from error
    return image


def _image_from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"an array of shape {list(array.shape)} is not an image: {_WANTED}")
    if 0 in array.shape:
        raise ValueError(f"the image has no pixels (array of shape {list(array.shape)})")
    return Image.fromarray(np.ascontiguousarray(_scale_to_uint8(array)))


def _scale_to_uint8(array: np.ndarray) -> np.ndarray:
    """The values of a picture as uint8: 16 bits by 1/257, floats in [0, 1] and bools by 255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 65535):  # also refuses NaN
        raise ValueError(f"image values reach from {low:g} to {high:g}: give [0, 255] or [0, 1]")
    if array.dtype.kind == "f" and high <= 1:
        factor = 255.0
    else:
        is_wide = array.dtype.kind == "u" and array.dtype.itemsize == 2  # any byte order
        factor = 1 / 257 if is_wide or high > 255 else 1.0
    return np.rint(array.astype(np.float64) * factor).astype(np.uint8)


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_scale_to_uint8(np.asarray(image))).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(background, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
