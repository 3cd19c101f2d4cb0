"""What a visitor takes home: masks as PNG files in a zip, and as COCO run-length JSON.

The JSON is a COCO data set of one picture that ``pycocotools.coco.COCO`` reads, with the words in
fields of their own.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from flmm.conversation import ChatTurn
from flmm.results import build_coco_image, build_mask_name, encode_mask_file, join_coco

COCO_NAME = "masks.json"


def build_coco(turns: Sequence[ChatTurn], name: str, size: tuple[int, int]) -> dict[str, Any]:
    """A COCO data set of the phrases of a conversation.

    Args:
        turns: of the conversation.
        name: of the picture's file.
        size: (H, W) of the picture that the masks lie on.
    """
    annotations = [
        phrase.to_coco(image_id=0, annotation_id=number) | {"turn": turn}
        for number, (turn, phrase) in enumerate(_list_phrases(turns), start=1)
    ]
    dataset = join_coco([build_coco_image(0, name, size)], annotations)
    told = [{"question": turn.question, "answer": turn.text} for turn in turns]
    return dataset | {"turns": told}


def build_zip(turns: Sequence[ChatTurn], coco: dict[str, Any]) -> bytes:
    """A zip of one PNG per phrase (255 inside, 0 outside) and ``masks.json``."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (turn, phrase) in enumerate(_list_phrases(turns), start=1):
            name = build_mask_name(number, phrase.text, f"turn{turn + 1}_{phrase.role}")
            archive.writestr(name, encode_mask_file(phrase.mask))
        archive.writestr(COCO_NAME, json.dumps(coco, ensure_ascii=False, indent=1))
    return stream.getvalue()


def build_name(picture: str, ending: str) -> str:
    """Name of a downloaded file: ``photo.jpg`` gives ``photo_masks.zip``."""
    stem = re.sub(r"[^\w-]+", "_", PurePosixPath(picture).stem).strip("_") or "picture"
    return f"{stem}_masks.{ending}"


def _list_phrases(turns: Sequence[ChatTurn]) -> list[tuple[int, Any]]:
    """(turn, phrase), in the order they were said."""
    return [(number, phrase) for number, turn in enumerate(turns) for phrase in turn.phrases]


__all__ = ["COCO_NAME", "build_coco", "build_name", "build_zip"]
