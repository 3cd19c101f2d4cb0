"""Pictures that visitors bring, and a few to begin with.

In: the bytes of an upload, from anybody. Out: an upright RGB picture of bounded size, or a
``ValueError`` whose message the visitor reads. The file's own header is believed only as far as its
size, and only to refuse.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePosixPath

from PIL import Image

from flmm.apps.web.limits import Limits
from flmm.images import TooManyPixelsError, load_image, open_image
from flmm.readers.qwen_image_processor import MAX_ASPECT_RATIO
from flmm.toy.shape_sentences import render_samples

# Pillow knows forty, and one of them starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_WANTED = "choose a JPEG, PNG, WebP, GIF, BMP or TIFF picture"
_MAX_NAME_LENGTH = 60
_SAMPLE_SEED, _SAMPLE_COUNT = 24, 6


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that can be read.

    Attributes:
        image: mode RGB.
        name: of the file, without folders.
        note: what was done to it, for the visitor; empty: nothing.
    """

    image: Image.Image
    name: str
    note: str = ""


def read_upload(data: bytes, name: str, limits: Limits) -> Picture:
    """The picture in an uploaded file; of several frames or pages the first.

    Args:
        data: the file.
        name: as the visitor calls it.
        limits: its ``max_upload_bytes``, ``max_pixels`` and ``max_side_px`` are used.

    Raises:
        ValueError: it is no picture, damaged, too large, or too narrow to be read.
    """
    quoted = f"“{clean_name(name)}”"
    if not data:
        raise ValueError(f"{quoted} is empty (0 bytes): {_WANTED}")
    if len(data) > limits.max_upload_bytes:
        raise ValueError(describe_large_file(name, len(data), limits))
    decoded, is_first = _decode(data, quoted, limits)
    notes = ["It holds several frames: the first is used."] if is_first else []
    if max(decoded.size) > limits.max_side_px:
        decoded.thumbnail((limits.max_side_px, limits.max_side_px))
        notes.append(f"It was shrunk to {decoded.width} × {decoded.height} pixels.")
    return Picture(decoded, clean_name(name), " ".join(notes))


def draw_samples() -> list[Picture]:
    """Drawn scenes of coloured shapes; the embedded model was trained on other seeds."""
    samples = render_samples(_SAMPLE_COUNT, _SAMPLE_SEED)
    return [
        Picture(Image.fromarray(sample.image), f"sample_{number}.png")
        for number, sample in enumerate(samples, start=1)
    ]


def clean_name(name: str) -> str:
    """The last part of a file's name, printable and not long."""
    name = PurePosixPath(str(name).replace("\\", "/")).name
    name = "".join(letter for letter in name if letter.isprintable()).strip()
    if len(name) > _MAX_NAME_LENGTH:
        name = name[: _MAX_NAME_LENGTH - 10] + "…" + name[-9:]
    return name or "picture"


def describe_large_file(name: str, size_bytes: int, limits: Limits) -> str:
    """What a visitor reads about a file above the limit."""
    return (
        f"“{clean_name(name)}” has {size_bytes / 2**20:.1f} MiB and this page takes up to "
        f"{limits.max_upload_bytes / 2**20:g} MiB: choose a smaller file"
    )


def _decode(data: bytes, quoted: str, limits: Limits) -> tuple[Image.Image, bool]:
    """The picture, and whether others follow it in the file."""
    with ExitStack() as stack:
        try:
            image = stack.enter_context(open_image(data, FORMATS))
        except TooManyPixelsError as error:
            raise ValueError(
                f"{quoted} holds more than {limits.max_pixels / 1e6:g} megapixels: shrink it first"
            ) from error
        except ValueError as error:
            raise ValueError(f"{quoted} is no picture that can be read here: {_WANTED}") from error
        _check_size(image.size, quoted, limits)
        is_first = image.format in ("GIF", "WEBP", "PNG", "TIFF") and _has_frames(image)
        try:
            return load_image(image), is_first
        except ValueError as error:
            raise ValueError(
                f"{quoted} is damaged or incomplete ({_shorten(error)}): choose another file"
            ) from error


def _check_size(size: tuple[int, int], name: str, limits: Limits) -> None:
    """Refuse a picture by its (width, height), before memory is taken for its pixels."""
    width, height = size
    if width * height > limits.max_pixels:
        raise ValueError(
            f"{name} is {width} × {height} pixels, and this page takes up to "
            f"{limits.max_pixels / 1e6:g} megapixels: shrink it first"
        )
    if max(size) > MAX_ASPECT_RATIO * max(1, min(size)):
        raise ValueError(
            f"{name} is {width} × {height} pixels, more than {MAX_ASPECT_RATIO} times as long as "
            "it is wide: crop it first"
        )


def _has_frames(image: Image.Image) -> bool:
    """Whether there is a second frame; damage behind the first does not matter."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        return False


def _shorten(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


__all__ = ["FORMATS", "Picture", "clean_name", "describe_large_file", "draw_samples", "read_upload"]
