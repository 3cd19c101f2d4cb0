"""What visitors may ask for, and within which bounds.

A request that the page itself never sends is a ``RequestError``; what a visitor may well do, such
as to choose a file that is no picture, is not: the service answers it with a message.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, fields
from typing import Any

# Per action its fields. Numbers are whole and not below zero.
FIELDS: dict[str, dict[str, type]] = {
    "open_sample": {"index": int},
    "open_upload": {"name": str, "data": str},  # of the file, as base64
    "ask": {"question": str, "begin": str, "select": str},  # begin: of the answer; see pointing
    "undo": {},
    "look_from": {"turn": int, "token": int},
    "look_at": {"box": list},  # x0, y0, x1, y1 in pixels of the picture
    "save": {"kind": str},  # "png" or "coco"
    "read": {"since": int},  # version that the browser shows
    "stop": {},
    "leave": {},
}
_KINDS = {int: "a whole number", str: "text", list: "a list of four numbers"}
_GREATEST = 2**53  # that a browser counts to
_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}")


@dataclass(frozen=True)
class Limits:
    """Bounds of the page; one that is zero or less is a ``ValueError``."""

    max_upload_bytes: int = 20 * 2**20
    max_pixels: int = 40_000_000  # of an upload, known before it is decoded
    max_side_px: int = 1600  # pictures with a longer side are shrunk
    max_question_characters: int = 2000
    max_new_tokens: int = 256  # of an answer
    time_limit_s: float = 120.0  # of an answer; what was said by then is kept
    max_visitors: int = 16  # held at once; the one that was idle longest makes room
    idle_s: float = 1800.0  # without a request, then a conversation is dropped
    queue_size: int = 20  # requests that wait at once; further ones are refused

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0:
                raise ValueError(f"the limit {item.name} is {value}: give a number above zero")


class RequestError(ValueError):
    """A request that the page never sends."""


def read_key(text: str | None) -> str:
    """A visitor's key; raises a :class:`RequestError` where it is missing or no key."""
    if text is None or not _KEY.fullmatch(text):
        raise RequestError("the request does not name its visitor: load the page again")
    return text


def read_request(action: str, body: bytes) -> dict[str, Any]:
    """The fields of a request from its body in JSON, all there, of the right types and in range."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the request {action!r} is no JSON: load the page again") from error
    kinds = FIELDS[action]
    if not isinstance(request, dict) or set(request) != set(kinds):
        names = ", ".join(kinds) or "nothing"
        raise RequestError(f"the request {action!r} must hold {names}: load the page again")
    for name, kind in kinds.items():
        if type(request[name]) is not kind or not _is_sound(request[name]):
            raise RequestError(
                f"{name!r} of the request {action!r} is not {_KINDS[kind]}: load the page again"
            )
    return request


def _is_sound(value: Any) -> bool:
    if isinstance(value, int):
        return 0 <= value <= _GREATEST
    if isinstance(value, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in value)  # half a character
    return len(value) == 4 and all(
        type(edge) in (int, float) and math.isfinite(edge) and abs(edge) <= _GREATEST
        for edge in value
    )
