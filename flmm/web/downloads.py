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
from flmm.web.drawing import encode_mask_file

COCO_NAME = "masks.json"


def build_coco(turns: Sequence[ChatTurn], name: str, size: tuple[int, int]) -> dict[str, Any]:
    """A COCO data set of the phrases of a conversation.

    Args:
        turns: of the conversation.
        name: of the picture's file.
        size: (H, W) of the picture that the masks lie on.
    """
    annotations = [
        {
            "id": number,
            "image_id": 0,
            "category_id": 1,
            "iscrowd": 0,
            "area": int(phrase.mask.sum()),
            "turn": turn,
            **phrase.to_coco(),
        }
        for number, (turn, phrase) in enumerate(_list_phrases(turns), start=1)
    ]
    return {
        "images": [{"id": 0, "file_name": name, "height": size[0], "width": size[1]}],
        "categories": [{"id": 1, "name": "phrase"}],
        "annotations": annotations,
        "turns": [{"question": turn.question, "answer": turn.text} for turn in turns],
    }


def build_zip(turns: Sequence[ChatTurn], coco: dict[str, Any]) -> bytes:
    """A zip of one PNG per phrase (255 inside, 0 outside) and ``masks.json``."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (turn, phrase) in enumerate(_list_phrases(turns), start=1):
            words = re.sub(r"\W+", "_", phrase.text).strip("_")[:40]
            name = f"{number:03d}_turn{turn + 1}_{phrase.role}_{words}.png"
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
