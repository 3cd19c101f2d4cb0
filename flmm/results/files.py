"""Results as files: a picture with its masks, a COCO data set, a PNG per mask.

Every file is whole under its name or not there; no phrase can lead a name out of its folder.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from flmm.files import replace_file
from flmm.results.coco import build_coco_dataset
from flmm.results.drawing import draw_result

if TYPE_CHECKING:
    from flmm.results.result import GroundingResult

_PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 92}),
}
_NAME_LETTERS = 40  # of a phrase, in a file's name


def save_result(result: GroundingResult, path: Path) -> Path:
    """See :meth:`GroundingResult.save`."""
    ending = path.suffix.lower()
    if ending in _PICTURES:
        content = encode_picture(draw_result(result), ending)
    elif ending == ".json":
        dataset = build_coco_dataset([result])
        content = (json.dumps(dataset, ensure_ascii=False, indent=1) + "\n").encode()
    else:
        raise ValueError(
            f"{str(path)!r} ends with {ending!r}: save takes {', '.join(_PICTURES)} (the picture "
            "with its masks) or .json (a COCO data set); save_masks writes a PNG per mask"
        )
    replace_file(path, content)
    return path


def save_masks(result: GroundingResult, folder: Path) -> list[Path]:
    """See :meth:`GroundingResult.save_masks`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, found in enumerate(result, start=1):
        path = folder / build_mask_name(number, found.text)
        replace_file(path, encode_mask_file(found.mask))
        paths.append(path)
    return paths


def build_mask_name(number: int, phrase: str, note: str = "") -> str:
    """Name of a mask's file: letters, digits and underlines alone, told apart by its number.

    Args:
        number: of the phrase.
        phrase: any text.
        note: stands between the two, such as ``"turn1_answer"``.
    """
    words = re.sub(r"\W+", "_", phrase).strip("_")[:_NAME_LETTERS]
    return "_".join(part for part in (f"{number:03d}", note, words) if part) + ".png"


def encode_mask_file(mask: np.ndarray) -> bytes:
    """A mask ``[H, W]`` as a PNG file, 8 bits: 255 inside, 0 outside."""
    return encode_picture(Image.fromarray(mask.astype(np.uint8) * 255), ".png")


def encode_picture(image: Image.Image, ending: str) -> bytes:
    """A picture as the file that ``ending`` names."""
    kind, options = _PICTURES[ending]
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


__all__ = ["build_mask_name", "encode_mask_file", "encode_picture", "save_masks", "save_result"]
