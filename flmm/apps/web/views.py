"""What the browser gets: pictures, turns and looks as JSON; masks as files.

Pictures go as data URIs, which
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
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from flmm.apps.web.pictures import Picture
from flmm.conversation import ChatTurn, PointedPhrase
from flmm.geometry import Size
from flmm.results import (
    build_mask_name,
    encode_areas,
    encode_data_uri,
    encode_mask_file,
    encode_page_picture,
    join_coco,
)
from flmm.visualization import Color, colorize_map, get_color, stretch_map

LOOK_COLOR: Color = (250, 250, 255)
TINT, SPOTLIGHT = (0, 72), (158, 40)  # how opaque a mask is outside and inside, of 255
_HEAT_SIDE_PX = 256  # the browser smooths what is larger


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
