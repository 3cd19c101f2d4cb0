"""What the browser is told about a picture and a turn, as JSON.

Spans are half-open ranges of characters (code points, not the browser's UTF-16 units).
"""

from __future__ import annotations

from typing import Any

from flmm.apps.web.drawing import encode_picture, encode_spotlight, encode_tint
from flmm.apps.web.pictures import Picture
from flmm.conversation import ChatTurn, PointedPhrase
from flmm.visualization import Color, get_color

LOOK_COLOR: Color = (250, 250, 255)


def build_picture_view(picture: Picture, identity: Any) -> dict[str, Any]:
    """``id``, ``url``, ``width`` and ``height`` in pixels, ``name``."""
    return {
        "id": identity,
        "url": encode_picture(picture.image),
        "width": picture.image.width,
        "height": picture.image.height,
        "name": picture.name,
    }


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
    color = get_color(index)
    return {
        "text": phrase.text,
        "role": phrase.role,
        "span": list(phrase.span),
        "score": round(phrase.score, 3),
        "found": bool(phrase.mask.any()),
        "color": "#{:02x}{:02x}{:02x}".format(*color),
        "tint": encode_tint(phrase.mask, color),
        "spotlight": encode_spotlight(phrase.mask, color),
    }


__all__ = ["LOOK_COLOR", "build_picture_view", "build_turn_view"]
