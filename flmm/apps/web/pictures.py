"""Pictures of visitors: uploads and drawn samples.

What is wrong with an upload is a ``ValueError`` whose message the visitor reads. The file's own
header is believed only as far as its size, and only to refuse.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from PIL import Image

from flmm.apps.web.requests import Limits
from flmm.images import TooManyPixelsError, load_image, open_image
from flmm.toy.shape_sentences import render_samples

# Pillow knows forty, and one of them starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_WANTED = "choose a JPEG, PNG, WebP, GIF, BMP or TIFF picture"
_MAX_NAME_LENGTH = 60
_MAX_ASPECT_RATIO = 200  # shrunk, nothing would be left of its short side
_SAMPLE_SEED, _SAMPLE_COUNT = 24, 6


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that can be read."""

    image: Image.Image  # RGB
    name: str  # of the file, without folders
    note: str = ""  # what was done to it, for the visitor


def read_upload(data: bytes, name: str, limits: Limits) -> Picture:
    """The picture in an uploaded file, upright; of several frames or pages the first."""
    quoted = f"“{clean_name(name)}”"
    if not data:
        raise ValueError(f"{quoted} is empty (0 bytes): {_WANTED}")
    if len(data) > limits.max_upload_bytes:
        raise ValueError(
            f"{quoted} has {len(data) / 2**20:.1f} MiB and this page takes up to "
            f"{limits.max_upload_bytes / 2**20:g} MiB: choose a smaller file"
        )
    megapixels = f"{limits.max_pixels / 1e6:g} megapixels: shrink it first"
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(open_image(data, FORMATS))
        except TooManyPixelsError as error:
            raise ValueError(f"{quoted} holds more than {megapixels}") from error
        except ValueError as error:
            raise ValueError(f"{quoted} is no picture that can be read here: {_WANTED}") from error
        shown = f"{quoted} is {opened.width} × {opened.height} pixels"
        if opened.width * opened.height > limits.max_pixels:  # before memory is taken for them
            raise ValueError(f"{shown}, and this page takes up to {megapixels}")
        if max(opened.size) > _MAX_ASPECT_RATIO * min(opened.size):
            times = f"more than {_MAX_ASPECT_RATIO} times as long as it is wide"
            raise ValueError(f"{shown}, {times}: crop it first")
        notes = ["It holds several frames: the first is used."] if _has_frames(opened) else []
        try:
            image = load_image(opened)
        except ValueError as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            raise ValueError(
                f"{quoted} is damaged or incomplete ({why}): choose another file"
            ) from error
    if max(image.size) > limits.max_side_px:
        image.thumbnail((limits.max_side_px, limits.max_side_px))
        notes.append(f"It was shrunk to {image.width} × {image.height} pixels.")
    return Picture(image, clean_name(name), " ".join(notes))


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


def _has_frames(image: Image.Image) -> bool:
    """Whether there is a second frame; damage behind the first does not matter."""
    with suppress(Exception):
        return bool(getattr(image, "is_animated", False))
    return False
