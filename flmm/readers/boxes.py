"""How a frozen model is asked for boxes, and how its reply is read; pure functions.

Words and frame are the family's: see ``Family.box_format``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flmm.records import ImageInput

QUOTED_CHARACTERS = 80
# Of the referring expressions in LLaVA-1.5's instruction data, which others took over.
REGION_QUESTION = (
    "Please provide the bounding box coordinate of the region this sentence describes: {phrase}"
)

_NUMBER = r"\s*([-+]?\d*\.?\d+)\s*"
# [x1, y1, x2, y2], (x1,y1),(x2,y2), <x1, y1, x2, y2>, [[x1, y1], [x2, y2]] or [[x1,y1,x2,y2;...]],
# whatever stands around it.
_BOX = re.compile(
    rf"[\[(<;]{_NUMBER},{_NUMBER}(?:,|[\])]\s*,?\s*[\[(]){_NUMBER},{_NUMBER}(?=[\])>;])"
)
_LOCATION_TOKENS = re.compile(r"<loc(\d{4})>" * 4)
# What a reply calls its boxes may hold numbers in brackets of its own.
_NAME = re.compile(
    r'"label"\s*:\s*"(?:[^"\\]|\\.)*"?|<\|object_ref_start\|>.*?<\|object_ref_end\|>|<\|?ref\|?>.*?<\|?/ref\|?>',
    re.DOTALL,
)
_NOTHING = re.compile(r"\s*(?:```(?:json)?)?\s*\[\s*\]\s*(?:```)?\s*(?:<\|\w+\|>\s*)*")


@dataclass(frozen=True)
class BoxFormat:
    """How models of a family are asked for boxes, and in which frame they answer.

    Attributes:
        question: the whole text of a user turn, ``{phrase}`` where the phrase stands.
        side: what each side of the picture, as the model saw it, counts.
        token_px: coordinates are pixels of the picture as it was resized, so many of them a side
            of an image token, in place of ``side``.
        location_tokens: a box is four tokens ``<loc0123>``: its top, left, bottom and right.
        marks: (begin, end) of what is read; ``None``: the whole reply. Models that think aloud
            name boxes that they then reject.
    """

    question: str
    side: float = 1000.0
    token_px: int | None = None
    location_tokens: bool = False
    marks: tuple[str, str] | None = None

    def ask(self, phrase: str) -> str:
        """The text of the user turn that asks for a phrase's boxes."""
        return self.question.replace("{phrase}", phrase.strip())


class BoxReading(NamedTuple):
    """What was read from a reply.

    Attributes:
        boxes_xyxy: float32 ``[n, 4]``, pixels of the picture as given, inside it, in the reply's
            order, none twice.
        problem: why there is none; ``None`` also where the reply says that nothing is there.
    """

    boxes_xyxy: Tensor
    problem: str | None


def read_boxes(reply: str, box_format: BoxFormat, image: ImageInput) -> BoxReading:
    """Read every box of a reply about ``image``.

    Code fences, text around it, a single object or a list, names, control tokens kept or not,
    floats and a reply that breaks off do not matter; swapped corners are put in order, and what
    reaches outside the picture is cut off. An empty list says that nothing is there.
    """
    said = _cut_out(reply, box_format.marks)
    found = (_LOCATION_TOKENS if box_format.location_tokens else _BOX).findall(_NAME.sub("", said))
    numbers = torch.tensor([[float(item) for item in box] for box in found]).reshape(-1, 4)
    if box_format.location_tokens:
        numbers = numbers[:, [1, 0, 3, 2]]
    boxes = _place(numbers, box_format, image)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    unique = list(dict.fromkeys(map(tuple, boxes.tolist())))
    if unique or _NOTHING.fullmatch(said):
        return BoxReading(torch.tensor(unique).reshape(-1, 4), None)
    fault = "the box covers nothing of the picture" if found else "the reply holds no readable box"
    return BoxReading(boxes, f"{fault}: {' '.join(reply.split())[:QUOTED_CHARACTERS]!r}")


def _cut_out(reply: str, marks: tuple[str, str] | None) -> str:
    """What stands between marks; the last may be missing where the reply breaks off."""
    if marks is None:
        return reply
    begin, end = (re.escape(mark) for mark in marks)
    return "\n".join(re.findall(rf"{begin}(.*?)(?:{end}|$)", reply, re.DOTALL))


def _place(numbers: Tensor, box_format: BoxFormat, image: ImageInput) -> Tensor:
    """Corners ``[n, 4]`` as the model counts, in pixels of the picture and cut off at its sides."""
    grid = image.grids[0]
    sides = torch.full((2,), box_format.side)
    if box_format.token_px is not None:
        sides = torch.tensor(grid.size[::-1]) * box_format.token_px
    seen = torch.tensor(grid.box).reshape(2, 2)  # reaches outside where the model saw padding
    corners = numbers.reshape(-1, 2, 2) * ((seen[1] - seen[0]) / sides) + seen[0]
    far = torch.tensor(image.original_size[::-1], dtype=torch.float32)
    return corners.sort(1).values.clamp(min=0).minimum(far).reshape(-1, 4)
