"""An explanation as one HTML page that needs nothing beside it.

The page's security policy allows its own script and style by their hashes and nothing else: no
network, and no code that came in with a question or an answer. Such text only stands in a JSON
block, and the script sets it as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flmm.apps.explanation.explained_chat import ExplainedChat
from flmm.apps.explanation.tokens import group_characters
from flmm.conversation import PointedPhrase
from flmm.records import Span
from flmm.results import encode_areas, encode_page_picture
from flmm.visualization import colorize_map, get_color

_FOLDER = Path(__file__).parent
BOX_SCRIPT = (_FOLDER / "box.js").read_text(encoding="utf-8")
_MAX_SIDE = 1600  # px of a picture in the page
_MASK_OPACITY = 115  # of 255


def build_page(
    explanation: ExplainedChat,
    regions: Sequence[PointedPhrase] = (),
    opened: Span | None = None,
) -> str:
    """The page, showing a range of tokens at first; ``regions`` are masks beside the turns' own."""
    # "<" cannot open a tag within JSON when it is written as an escape.
    content = json.dumps(_build_data(explanation, regions, opened), separators=(",", ":"))
    content = content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    style, script, frame = (
        (_FOLDER / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js", "html")
    )
    script = f'"use strict";\n{BOX_SCRIPT}{script}'
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "script": script, "data": content}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], frame)


def _build_data(
    explanation: ExplainedChat, regions: Sequence[PointedPhrase], opened: Span | None
) -> dict[str, Any]:
    """What the script reads."""
    listed: list[tuple[int | None, PointedPhrase]] = []
    for number, turn in enumerate(explanation.turns):
        listed += [(number, phrase) for phrase in turn.phrases]
    listed += [(None, phrase) for phrase in regions]
    ramp = colorize_map(np.linspace(0, 1, 256)[None], (1, 256))
    units = group_characters(explanation.tokens)
    shown = [
        index
        for index, (start, end) in enumerate(units)
        if opened is not None and start < opened[1] and opened[0] < end
    ]
    return {
        "opened": [shown[0], shown[-1] + 1] if shown else None,
        "notice": explanation.notice,
        "note": f"Attention: {explanation.describe_heads()}.",
        "ramp": _encode_bytes(ramp.tobytes()),
        "images": [
            {
                "name": "the picture" if len(explanation.images) == 1 else f"picture {number}",
                "source": encode_page_picture(_shrink(image)),
                "height": image.shape[0],
                "width": image.shape[1],
                "grid": list(maps.shape[1:]),
            }
            for number, (image, maps) in enumerate(zip(explanation.images, explanation.maps))
        ],
        "turns": [{"question": turn.question, "answer": turn.text} for turn in explanation.turns],
        "tokens": [_build_token(explanation, unit) for unit in units],
        "regions": [
            _build_region(explanation, turn, phrase, get_color(number))
            for number, (turn, phrase) in enumerate(listed)
            if phrase.mask.any()
        ],
    }


def _build_token(explanation: ExplainedChat, unit: Span) -> dict[str, Any]:
    """A token, or those that share a character and cannot be shown apart.

    ``span`` are its characters; its map on each picture is in steps of 1/65535 of its ``peak``,
    ``null`` where it is zero.
    """
    first, last = explanation.tokens[unit[0]], explanation.tokens[unit[1] - 1]
    maps = [grids[slice(*unit)].mean(0) for grids in explanation.maps]
    peaks = [float(grid.max()) for grid in maps]
    return {
        "turn": first.turn,
        "role": first.role,
        "tokens": list(unit),
        "span": [first.span[0], last.span[1]],
        "peaks": [float(f"{peak:.6g}") for peak in peaks],
        "weights": [float(f"{grid.sum():.6g}") for grid in maps],
        "maps": [_encode_grid(grid / peak) if peak else None for grid, peak in zip(maps, peaks)],
    }


def _build_region(
    explanation: ExplainedChat, turn: int | None, phrase: PointedPhrase, color: tuple[int, int, int]
) -> dict[str, Any]:
    return {
        "turn": turn,
        "label": phrase.text,
        "image": phrase.image,
        "score": round(phrase.score, 4),
        "color": f"rgb{color}",
        "coverage": _encode_grid(explanation.compute_coverage(phrase.image, mask=phrase.mask)),
        "overlay": encode_areas(np.asarray(_shrink(phrase.mask)), color, (0, _MASK_OPACITY)),
    }


def _shrink(pixels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return picture


def _encode_grid(values: np.ndarray) -> str:
    """``[h, w]`` in [0, 1], 16 bits each."""
    return _encode_bytes(np.rint(values * 65535).astype("<u2").tobytes())


def _encode_bytes(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{_encode_bytes(digest)}'"
