"""Turns as people read them: a table of phrases, marked words, a picture, a JSON record.

A phrase has the colour of its place in the turn everywhere: in the text as in the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from rich import box
from rich.color import Color
from rich.style import Style
from rich.table import Table
from rich.text import Text

from flmm.apps.terminal.terminal import clean_controls
from flmm.conversation import Chat, ChatTurn, PointedPhrase
from flmm.results import draw_phrases
from flmm.visualization import get_color


def tabulate_phrases(phrases: Sequence[PointedPhrase]) -> Table:
    """A table of phrases, numbered from 1, each in its mask's colour.

    Boxes are xyxy in pixels of the picture, areas are in pixels, pictures count from 1.
    """
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style=""
    )
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("phrase", overflow="fold")
    for name in ("of", "picture", "score", "box (x0 y0 x1 y1)", "area"):
        is_number = name in ("picture", "score", "area")
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for index, item in enumerate(phrases):
        edges = "-" if item.is_empty else " ".join(str(round(x)) for x in item.box_xyxy.tolist())
        words = Text(" ".join(clean_controls(item.text).split()), _get_style(index))
        numbers = [item.image + 1, f"{item.score:.2f}", edges, item.area]
        table.add_row(str(index + 1), words, item.role, *map(str, numbers))
    return table


def mark_phrases(turn: ChatTurn, role: str) -> Text:
    """The question or the answer of a turn, its phrases in their masks' colours.

    Where phrases nest, the shorter one shows.
    """
    text = Text(clean_controls(turn.question if role == "question" else turn.text))
    own = [(index, item.span) for index, item in enumerate(turn.phrases) if item.role == role]
    for index, (start, end) in sorted(own, key=lambda item: item[1][0] - item[1][1]):
        text.stylize(_get_style(index), start, end)
    return text


def _get_style(index: int) -> Style:
    """Underlined, in the colour of phrase ``index``."""
    return Style(underline=True, color=Color.from_rgb(*get_color(index)))


def draw_turn(image: np.ndarray, phrases: Sequence[PointedPhrase], index: int) -> Image.Image:
    """Picture ``index`` of a conversation with those phrases of a turn that point into it.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        phrases: of the turn; their numbers, from 1, stand at their boxes.
        index: of the picture, from 0.
    """
    own = [(place, item) for place, item in enumerate(phrases) if item.image == index]
    labels = [str(place + 1) for place, _ in own]
    colors = [get_color(place) for place, _ in own]
    return draw_phrases(image, [item for _, item in own], labels, colors)


def describe_chat(chat: Chat, names: Sequence[str]) -> dict[str, Any]:
    """A conversation about pictures of some names, JSON ready; documented in docs/chat.md."""
    images = zip(names, chat.images)
    return {
        "pictures": [{"name": name, "size": list(item.original_size)} for name, item in images],
        "turns": [
            {
                "question": turn.question,
                "answer": turn.text,
                "end_reason": turn.end_reason,
                "phrases": turn.to_coco(),
            }
            for turn in chat.turns
        ],
    }
