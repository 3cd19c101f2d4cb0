"""What the browser brings and gets: uploads; pictures, turns and looks as JSON; masks as files.

What is wrong with an upload is a ``ValueError`` whose message the visitor reads. The file's own
header is believed only as far as its size, and only to refuse. Pictures go as data URIs, which
travel with the update they belong to, so that nothing of a visitor lies on the disk or behind an
address that somebody else could ask for. Spans are half-open ranges of code points, not of the
browser's UTF-16 units.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from flmm.apps.web.visitors import Limits
from flmm.conversation import ChatTurn, PointedPhrase
from flmm.geometry import Size
from flmm.images import TooManyPixelsError, load_image, open_image
from flmm.results import (
    build_mask_name,
    encode_areas,
    encode_data_uri,
    encode_mask_file,
    encode_page_picture,
    join_coco,
)
from flmm.toy.shape_sentences import render_samples
from flmm.visualization import Color, colorize_map, get_color, stretch_map

LOOK_COLOR: Color = (250, 250, 255)
TINT, SPOTLIGHT = (0, 72), (158, 40)  # how opaque a mask is outside and inside, of 255
_HEAT_SIDE_PX = 256  # the browser smooths what is larger
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


def build_picture_view(picture: Picture, identity: Any) -> dict[str, Any]:
    """``id``, ``url``, ``width`` and ``height`` in pixels, ``name``."""
    size = dict(zip(("width", "height"), picture.image.size))
    return {"id": identity, "url": encode_page_picture(picture.image), **size, "name": picture.name}


def build_turn_view(turn: ChatTurn, note: str = "") -> dict[str, Any]:
    """``question``, ``text``, ``note``, ``tokens`` ([role, start, end]) and ``phrases``."""
    return {
        "question": turn.question,
        "text": turn.text,
        "note": note,
        "tokens": [[token.role, *token.span] for token in turn.tokens],
        "phrases": [_build_phrase_view(*pair) for pair in enumerate(turn.phrases)],
    }


def _build_phrase_view(index: int, phrase: PointedPhrase) -> dict[str, Any]:
    color, mask = get_color(index), phrase.mask
    return {
        "text": phrase.text,
        "role": phrase.role,
        "span": list(phrase.span),
        "score": round(phrase.score, 3),
        "found": not phrase.is_empty,
        "color": "#{:02x}{:02x}{:02x}".format(*color),
        "tint": encode_areas(mask, color, TINT),
        "spotlight": encode_areas(mask, color, SPOTLIGHT),
    }


def encode_heat(heat_map: np.ndarray, size: Size) -> str:
    """A map ``[h, w]`` of any range over a picture of ``size``, clearer where it is low."""
    scale = min(1.0, _HEAT_SIDE_PX / max(size))
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    alpha = np.rint(255 * (0.42 + 0.43 * stretch_map(heat_map, small))).astype(np.uint8)
    return encode_data_uri(Image.fromarray(np.dstack([colorize_map(heat_map, small), alpha])))


def build_download(
    turns: Sequence[ChatTurn], picture: str, size: Size, kind: str
) -> tuple[str, bytes]:
    """Name and content of a file with the phrases of a conversation about a picture of that name.

    ``"coco"`` is a COCO data set; another ``kind`` a zip of it and one PNG per phrase.
    """
    said = [(number, phrase) for number, turn in enumerate(turns) for phrase in turn.phrases]
    annotations = [
        phrase.to_coco(image_id=0, annotation_id=number) | {"turn": turn}
        for number, (turn, phrase) in enumerate(said, start=1)
    ]
    dataset = join_coco([(0, picture, size)], annotations)
    dataset["turns"] = [{"question": turn.question, "answer": turn.text} for turn in turns]
    coco = json.dumps(dataset, ensure_ascii=False, indent=1)
    stem = re.sub(r"[^\w-]+", "_", PurePosixPath(picture).stem).strip("_") or "picture"
    if kind == "coco":
        return f"{stem}_masks.json", coco.encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (turn, phrase) in enumerate(said, start=1):
            name = build_mask_name(number, phrase.text, f"turn{turn + 1}_{phrase.role}")
            archive.writestr(name, encode_mask_file(phrase.mask))
        archive.writestr("masks.json", coco)
    return f"{stem}_masks.zip", stream.getvalue()
