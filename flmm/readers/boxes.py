"""How each Qwen-VL family is asked for a box, and how its reply is read; pure functions.

Source: of the questions and frames, what the Qwen team says of its own RefCOCO evaluation.
Qwen2-VL: arXiv 2409.12191, "Visual Grounding" (0-1000, box tokens), question in plain words from
github.com/QwenLM/Qwen3-VL/issues/536 (a user's; the team has published none). Qwen2.5-VL: issues
991 (question), 733 (JSON, no box tokens), 782 (pixels after resizing). Qwen3-VL: issues 1721
(question), 1427 (0-1000).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flmm.geometry import Size, scale_boxes
from flmm.readers.prompts import quote_text

GRID_SIDE = 1000
QUOTED_CHARACTERS = 80

_NUMBER = r"\s*([-+]?\d+(?:\.\d+)?)\s*"
# [x1, y1, x2, y2], (x1,y1),(x2,y2) or [[x1, y1], [x2, y2]], whatever stands around it.
_BOX = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}(?:,|[\])]\s*,?\s*[\[(]){_NUMBER},{_NUMBER}[\])]")


@dataclass(frozen=True)
class BoxFormat:
    """How a family is asked, with ``{phrase}`` where the phrase stands, and answers.

    Coordinates are pixels of the resized picture, or else thousandths of its sides.
    """

    question: str
    in_input_pixels: bool


class BoxReading(NamedTuple):
    """What was read from a reply.

    Attributes:
        box_xyxy: float32 ``[4]``, pixels of the original picture, inside it.
        problem: why there is none.
    """

    box_xyxy: Tensor | None
    problem: str | None


_QWEN3_VL = BoxFormat(
    'Locate every object that matches the description "{phrase}" in the image. Report bbox '
    "coordinates in JSON format.",
    in_input_pixels=False,
)
BOX_FORMATS = {
    "qwen2_vl": BoxFormat(
        "Please provide the bounding box coordinate of the region this sentence describes: "
        "{phrase}",
        in_input_pixels=False,
    ),
    "qwen2_5_vl": BoxFormat(
        "Locate {phrase} in this image and output the bbox coordinates in JSON format.",
        in_input_pixels=True,
    ),
    "qwen3_vl": _QWEN3_VL,
    "qwen3_vl_moe": _QWEN3_VL,
}


def get_box_format(model_type: str) -> BoxFormat:
    """The format of a family.

    Raises:
        ValueError: no grounding format of ``model_type`` is known.
    """
    if model_type not in BOX_FORMATS:
        raise ValueError(
            f"how a {model_type!r} model names boxes is not known: use a reader of "
            f"{', '.join(BOX_FORMATS)}, or add its format to flmm/readers/boxes.py"
        )
    return BOX_FORMATS[model_type]


def build_box_question(model_type: str, phrase: str) -> str:
    """The text of the user turn that asks for a phrase's box, in the family's own words."""
    return get_box_format(model_type).question.format(phrase=phrase.strip())


def parse_box(reply: str, model_type: str, input_size: Size, original_size: Size) -> BoxReading:
    """Read the first box of a reply to :func:`build_box_question`.

    Code fences, text around it, a single object or a list, control tokens kept or not, floats and
    a reply that breaks off later do not matter; swapped corners are put in order, and what
    reaches outside the picture is cut off. ``input_size`` (H', W') is what the model saw,
    ``original_size`` (H, W) the picture as given.
    """
    in_input_pixels = get_box_format(model_type).in_input_pixels
    found, said = _BOX.search(reply), quote_text(reply, QUOTED_CHARACTERS)
    if found is None:
        return BoxReading(None, f"the reply holds no readable box: {said}")
    box = torch.tensor([float(number) for number in found.groups()])
    frame = input_size if in_input_pixels else (GRID_SIDE, GRID_SIDE)
    corners = scale_boxes(box[None], frame, original_size).reshape(2, 2)
    far_corner = torch.tensor([original_size[1], original_size[0]], dtype=torch.float32)
    corners = corners.sort(0).values.clamp(min=0).minimum(far_corner)
    if not (corners[1] > corners[0]).all():
        return BoxReading(None, f"the box covers nothing of the picture: {said}")
    return BoxReading(corners.flatten(), None)
