"""Pointed phrases as people read them: a table, marked words, a picture, a JSON record.

A phrase has the colour of its place in the turn everywhere: in the text as in the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flmm.conversation import Chat, ChatTurn, PointedPhrase
from flmm.terminal_chat.terminal import clean_controls, paint
from flmm.visualization import format_table, get_color, overlay_mask


def format_phrases(phrases: Sequence[PointedPhrase], colors: str) -> str:
    """A table of phrases, numbered from 1; in a terminal each has its mask's colour.

    Boxes are xyxy in pixels of the picture, areas are in pixels, pictures count from 1.
    """
    rows = []
    for number, phrase in enumerate(phrases, start=1):
        is_empty = bool(np.isnan(phrase.box_xyxy).any())
        box = "-" if is_empty else " ".join(str(round(edge)) for edge in phrase.box_xyxy.tolist())
        rows.append(
            {
                "": number,
                "phrase": clean_controls(phrase.text),
                "of": phrase.role,
                "picture": phrase.image + 1,
                "score": phrase.score,
                "box (x0 y0 x1 y1)": box,
                "area": int(phrase.mask.sum()),
            }
        )
    lines = format_table(rows).splitlines()
    start = len(str(len(rows))) + 2  # where the phrases stand
    for index, row in enumerate(rows):
        line = lines[index + 2]
        end = start + len(" ".join(str(row["phrase"]).split()))
        painted = paint(line[start:end], get_color(index), colors)
        lines[index + 2] = line[:start] + painted + line[end:]
    return "\n".join(lines)


def mark_phrases(turn: ChatTurn, role: str, colors: str) -> str:
    """The question or the answer of a turn, its phrases in their masks' colours.

    Where phrases nest, the shorter one shows.
    """
    text = turn.question if role == "question" else turn.text
    owners: list[int | None] = [None] * len(text)
    own = [(index, item.span) for index, item in enumerate(turn.phrases) if item.role == role]
    for index, (start, end) in sorted(own, key=lambda item: item[1][0] - item[1][1]):
        owners[start:end] = [index] * (end - start)
    parts, start = [], 0
    for end in range(1, len(text) + 1):
        if end == len(text) or owners[end] != owners[start]:
            part, owner = clean_controls(text[start:end]), owners[start]
            parts.append(part if owner is None else paint(part, get_color(owner), colors))
            start = end
    return "".join(parts)


def draw_phrases(image: np.ndarray, phrases: Sequence[PointedPhrase], index: int) -> Image.Image:
    """One picture of a conversation with the masks that lie in it, each in its phrase's colour.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        phrases: of a turn; their numbers, from 1, stand at their boxes.
        index: which picture it is.
    """
    own = [(place, item) for place, item in enumerate(phrases) if item.image == index]
    for place, phrase in sorted(own, key=lambda item: -item[1].mask.sum()):  # small ones on top
        image = overlay_mask(image, phrase.mask, get_color(place))
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(size=max(11, min(drawn.size) // 28))
    for place, phrase in own:
        if phrase.mask.any():
            corner = (float(phrase.box_xyxy[0]), float(phrase.box_xyxy[1]))
            label = pen.textbbox(corner, f" {place + 1} ", font=font)
            pen.rectangle(label, fill=get_color(place))
            pen.text(corner, f" {place + 1} ", fill=(0, 0, 0), font=font)
    return drawn


def describe_chat(chat: Chat, names: Sequence[str]) -> dict[str, Any]:
    """A conversation, JSON ready.

    Args:
        chat: the conversation.
        names: of its pictures.

    Returns:
        ``{"pictures": [{"name", "size"}], "turns": [{"question", "answer", "end_reason",
        "phrases"}]}``; ``size`` is [h, w] in pixels, ``phrases`` see ``PointedPhrase.to_coco``,
        whose ``image`` is a place in ``pictures``.
    """
    return {
        "pictures": [
            {"name": name, "size": list(item.original_size)}
            for name, item in zip(names, chat.images)
        ],
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


__all__ = ["describe_chat", "draw_phrases", "format_phrases", "mark_phrases"]
