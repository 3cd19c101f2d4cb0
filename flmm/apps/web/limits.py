"""What a visitor of the page may ask for."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Bounds of the page, all of them greater than zero.

    Attributes:
        max_upload_bytes: size of an uploaded file.
        max_pixels: width times height of an uploaded picture, known before it is decoded.
        max_side_px: longer side at which a picture is read and shown; greater ones are shrunk.
        max_question_characters: length of a question.
        max_new_tokens: length of an answer.
        time_limit_s: duration of an answer, in seconds; what was said by then is kept.
        max_visitors: conversations held at once; the one that was idle longest makes room.
        idle_s: after so many seconds without a request a conversation is dropped.
        queue_size: requests that wait at once; further ones are refused.

    Raises:
        ValueError: a bound is zero or less.
    """

    max_upload_bytes: int = 20 * 2**20
    max_pixels: int = 40_000_000
    max_side_px: int = 1600
    max_question_characters: int = 2000
    max_new_tokens: int = 256
    time_limit_s: float = 120.0
    max_visitors: int = 16
    idle_s: float = 1800.0
    queue_size: int = 20

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0:
                raise ValueError(f"the limit {item.name} is {value}: give a number above zero")


__all__ = ["Limits"]
