"""From a file, bytes, a stream, an array or a PIL image to 8-bit RGB without any tag.

Without tags nothing turns a picture a second time.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from flmm.images.arrays import convert_array, convert_tensor, convert_values

Orientation = Literal["upright", "stored"]

_WANTED = (
    "give a path, bytes, a binary stream, a PIL image, an array [H, W, 3] or a tensor [3, H, W]"
)
_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
_ADDRESS = re.compile(r"data:|[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# EXIF's orientation -> what makes the picture stand upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_UNDOING = {6: 8, 8: 6}  # the other turns undo themselves


class TooManyPixelsError(ValueError):
    """A picture whose header claims more pixels than Pillow agrees to decode."""


def load_image(source: Any, orientation: Orientation = "upright") -> Image.Image:
    """A new 8-bit RGB picture, without any tag; the source stays as it was.

    Of several frames the first is read. Transparency is laid over white. Sixteen bits and floats
    are scaled as :func:`flmm.images.arrays.convert_values` says; colour profiles are not applied.

    Args:
        source: path, encoded bytes, binary stream (read from its beginning where it can be
            rewound), PIL image of any mode, array ``[H, W]``, ``[H, W, 1 | 3 | 4]``, or tensor
            ``[H, W]``, ``[1 | 3 | 4, H, W]``.
        orientation: "upright" turns a picture as its EXIF tag says, as people see it; "stored"
            leaves the pixels where the file has them, as annotations count them.

    Raises:
        TypeError: ``source`` is none of these, or of a type that holds no picture.
        OSError: the file does not exist (FileNotFoundError), or cannot be opened.
        ValueError: it is a web address, no file or no picture, broken, larger than Pillow decodes
            (``TooManyPixelsError``), without pixels, or of values that are not a picture's.
    """
    if orientation not in ("upright", "stored"):
        raise ValueError(f"orientation is {orientation!r}: give 'upright' or 'stored'")
    if isinstance(source, np.ndarray):
        return _convert_to_rgb(Image.fromarray(convert_array(source)))
    if isinstance(source, Tensor):
        return _convert_to_rgb(Image.fromarray(convert_tensor(source)))
    if isinstance(source, Image.Image):
        return _finish(source, orientation, "image")
    with open_image(source) as image:
        return _finish(image, orientation, _describe(source))


@contextmanager
def open_image(source: Any, formats: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    """The first frame of an encoded picture as it is stored: its header; pixels when asked for.

    ``formats`` are Pillow's names of those that are taken; ``None``: all but PostScript. Raises as
    :func:`load_image`; asking the picture for its pixels may raise anything.
    """
    name = _describe(source)
    with _open_stream(source) as stream:
        try:
            image = Image.open(stream, formats=formats)
        except Exception as error:  # Pillow's plugins raise whatever their parsers meet
            raise _explain(name, error) from error
        if image.format == "EPS":
            raise ValueError(
                f"{name} is PostScript, which is a program: save it as PNG or JPEG first"
            )
        with image:
            yield image


def is_address(source: Any) -> bool:
    """Whether a text is a ``data:`` or ``scheme://`` address rather than a path."""
    return isinstance(source, str) and _ADDRESS.match(source) is not None


def _describe(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return f"image {os.fspath(source)}"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"image ({len(source)} bytes)"
    return "image"


def _open_stream(source: Any) -> AbstractContextManager[BinaryIO]:
    if isinstance(source, (str, os.PathLike)):
        return _open_file(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(bytes(source))
    if isinstance(source, io.TextIOBase):
        raise TypeError("the stream is open for text, not for bytes: open it with mode 'rb'")
    if not callable(getattr(source, "read", None)):
        raise TypeError(f"{type(source).__name__} is not an image: {_WANTED}")
    return nullcontext(source)


def _open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """A file for reading; what is no file is refused before opening it could wait for ever."""
    if is_address(path):
        raise ValueError(
            f"{str(path)[:80]} is an address, and only files are read here: GroundingInferencer, "
            "the tools and flmm.images.load_any_image take addresses"
        )
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"no image file at {os.fspath(path)!r}") from error
    except ValueError as error:  # a zero byte
        raise ValueError(f"{os.fspath(path)!r} is no name of a file") from error
    if stat.S_ISDIR(mode):
        raise ValueError(f"{os.fspath(path)!r} is a folder: give the picture files in it")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{os.fspath(path)!r} is a pipe, socket or device: give a regular file")
    return open(path, "rb")


def _explain(name: str, error: Exception) -> ValueError:
    if isinstance(error, Image.DecompressionBombError):
        return TooManyPixelsError(
            f"{name} has too many pixels: shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if it "
            f"is to be trusted ({error})"
        )
    if name.lower().endswith(_VIDEOS):
        return ValueError(f"{name} is a video, and flmm reads still pictures: give it a frame")
    if isinstance(error, UnidentifiedImageError):  # its own words name an address in memory
        return ValueError(f"{name} cannot be read: it is no picture of a known kind")
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ValueError(f"{name} cannot be read: {reason}")


def _finish(image: Image.Image, orientation: Orientation, name: str) -> Image.Image:
    # Pillow's TIFF reader turns the pixels while it loads them, and drops the tag.
    turned = _read_orientation(image) if image.format == "TIFF" else 1
    try:
        image.load()
    except Exception as error:  # a broken picture raises almost anything
        raise _explain(name, error) from error
    if 0 in image.size:
        raise ValueError(f"{name} has no pixels (height {image.height}, width {image.width})")
    if orientation == "upright":
        turn = _TURNS.get(_read_orientation(image))
    else:
        turn = _TURNS.get(_UNDOING.get(turned, turned))
    picture = _convert_to_rgb(image)
    return picture if turn is None else picture.transpose(turn)


def _read_orientation(image: Image.Image) -> int:
    """EXIF's orientation in 1..8; 1 where the tags are broken or say nothing."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
        return found if found in _TURNS else 1
    except Exception:  # parsers of tags raise almost anything
        return 1


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(convert_values(np.asarray(image)))
    if image.mode == "La":
        image = image.convert("LA")
    if {"A", "a"} & set(image.getbands()) or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(paper, image)
    picture = image.convert("RGB")
    picture.info = {}
    return picture
