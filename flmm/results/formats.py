"""Phrases in the field's formats: COCO, pandas, supervision, files, data URIs.

In a COCO data set, which ``pycocotools.coco.COCO`` loads, every phrase is an annotation of the one
category "phrase"; the words stand in ``phrase``.
"""

from __future__ import annotations

import base64
import importlib
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from flmm.geometry import Size
from flmm.results.phrase import GroundedPhrase

PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 92}),
}
_NAME_LETTERS = 40  # of a phrase, in a file's name
_SMALL_PIXELS = 600 * 600  # up to here a page gets a picture without loss


def join_coco(
    pictures: Iterable[tuple[int, str, Size]], annotations: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A data set, JSON ready, of pictures' ids, file names and sizes, and annotations with ids."""
    images = [
        {"id": image_id, "file_name": name, "height": height, "width": width}
        for image_id, name, (height, width) in pictures
    ]
    categories = [{"id": 1, "name": "phrase"}]
    return {"images": images, "categories": categories, "annotations": list(annotations)}


def build_data_frame(phrases: Sequence[GroundedPhrase]) -> Any:
    """A ``pandas.DataFrame``, one row per phrase."""
    pandas = _import("pandas", "to_pandas")
    rows = [[item.text, item.score, item.presence, *item.box_xyxy, item.area] for item in phrases]
    columns = ["phrase", "score", "presence", "x0", "y0", "x1", "y1", "area"]
    return pandas.DataFrame(rows, columns=columns)


def build_detections(phrases: Sequence[GroundedPhrase], texts: Sequence[str], size: Size) -> Any:
    """``supervision.Detections`` of the phrases whose mask is not empty, in a picture of a size.

    ``class_id`` is the words' first place among ``texts``.
    """
    supervision = _import("supervision", "to_supervision")
    kept = [item for item in phrases if not item.is_empty]
    masks = np.zeros((len(kept), *size), dtype=bool)
    for row, item in enumerate(kept):
        masks[row] = item.mask
    return supervision.Detections(
        xyxy=np.array([item.box_xyxy for item in kept], np.float32).reshape(-1, 4),
        mask=masks,
        confidence=np.array([item.score for item in kept], np.float32),
        class_id=np.array([texts.index(item.text) for item in kept], dtype=np.int64),
        data={
            "class_name": np.array([item.text for item in kept], dtype=np.str_),
            "presence": np.array([item.presence for item in kept], np.float32),
        },
    )


def _import(name: str, method: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{method}() needs {name}: pip install 'flmm[results]', or pip install {name}"
        ) from error


def build_mask_name(number: int, phrase: str, note: str = "") -> str:
    """Name of a mask's file: number, note and phrase in letters, digits and underlines alone."""
    words = re.sub(r"\W+", "_", phrase).strip("_")[:_NAME_LETTERS]
    return "_".join(part for part in (f"{number:03d}", note, words) if part) + ".png"


def encode_mask_file(mask: np.ndarray) -> bytes:
    """A mask ``[H, W]`` as a PNG file, 8 bits: 255 inside, 0 outside."""
    return encode_picture(Image.fromarray(mask.astype(np.uint8) * 255), ".png")


def encode_picture(image: Image.Image, ending: str, **options: Any) -> bytes:
    """A picture as the file that ``ending``, one of ``PICTURES``, names."""
    kind, usual = PICTURES[ending]
    stream = io.BytesIO()
    image.save(stream, kind, **(usual | options))
    return stream.getvalue()


def encode_data_uri(image: Image.Image, ending: str = ".png", **options: Any) -> str:
    """The same as a data URI, which a page shows without a request."""
    content = base64.b64encode(encode_picture(image, ending, **options)).decode("ascii")
    return f"data:image/{PICTURES[ending][0].lower()};base64,{content}"


def encode_page_picture(image: Image.Image) -> str:
    """An RGB picture as a data URI: a small one without loss, a large one as JPEG."""
    is_small = image.width * image.height <= _SMALL_PIXELS
    return encode_data_uri(image, ".png" if is_small else ".jpg")
