"""Explanations as pictures: a sheet of words, rows of words with masks, a region's ranking.

In: an explanation. Out: PIL pictures. Nothing here computes attention. Letters that the font lacks
(Chinese, emoji) are drawn as empty boxes; the HTML page shows every script.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from flmm.apps.explanation.regions import RankedToken
from flmm.apps.explanation.tokens import group_words, join_text
from flmm.geometry import Size, resize_maps
from flmm.records import Span
from flmm.visualization import colorize_map, compute_panel_size, get_color, overlay_mask

if TYPE_CHECKING:
    from flmm.apps.explanation.explanation import Explanation, TokenChoice

_PAPER, _INK, _GREY, _RULE = (255, 255, 255), (25, 25, 25), (105, 105, 105), (225, 225, 225)
_BAR, _BAR_BELOW = (0, 120, 190), (200, 200, 200)
_MARGIN, _GAP = 20, 14
_SHEET_WIDTH = 1120
_TILE_WIDTH = 166
_MAX_TILES = 60
_BARS = 16
_BAR_HEIGHT = 24
_LABEL_WIDTH, _BAR_WIDTH = 250, 300


def draw_heat(image: np.ndarray, heat_map: np.ndarray, size: Size) -> np.ndarray:
    """A map over the greyed picture, from its least value to its greatest.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        heat_map: float ``[h, w]``, not negative.
        size: (height, width) px to be drawn.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    scaled = np.asarray(Image.fromarray(image).resize(size[::-1]), np.float32)
    heat = resize_maps(torch.from_numpy(heat_map.astype(np.float32))[None], size)[0].numpy()
    strength = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
    grey = np.repeat(scaled.mean(2, keepdims=True), 3, axis=2)
    opacity = (0.2 + 0.65 * strength)[..., None]
    drawn = grey * (1 - opacity) + colorize_map(heat, size) * opacity
    return np.rint(drawn).clip(0, 255).astype(np.uint8)


def draw_sheet(explanation: Explanation) -> Image.Image:
    """Question and answer of every turn, and a small panel for each word of the answers.

    Each panel shows the picture that the word looks at most. At most 60 words are drawn; the sheet
    says how many are not.
    """
    answers = [token for token in explanation.tokens if token.role == "answer"]
    first = [index for index, token in enumerate(explanation.tokens) if token.role == "answer"]
    words = [(first[start], first[end - 1] + 1) for start, end in group_words(answers)]
    tiles = [_draw_tile(explanation, span) for span in words[:_MAX_TILES]]
    note = explanation.describe_heads()
    if len(words) > _MAX_TILES:
        note += f"; {len(words) - _MAX_TILES} more words are not drawn here: save_html shows all"
    columns = (_SHEET_WIDTH - 2 * _MARGIN + _GAP) // (_TILE_WIDTH + _GAP)
    rows = [tiles[at : at + columns] for at in range(0, len(tiles), columns)]
    head = _draw_talk(
        explanation, f"where each word of the answer looks: {note}; % of its attention"
    )
    body = [_place_beside(row, _GAP) for row in rows]
    return _stack([head, *body], _SHEET_WIDTH)


def draw_words(explanation: Explanation, words: Sequence[TokenChoice]) -> Image.Image:
    """A row for each word: the picture with the mask's box, attention, mask.

    Raises:
        ValueError: no word is given, or there is none like it.
    """
    if not words:
        raise ValueError("no word to draw: give at least one, or None for a sheet of all")
    rows = []
    for number, choice in enumerate(words):
        phrase, color = explanation.ground(choice), get_color(number)
        image = explanation.images[phrase.image]
        height, width = compute_panel_size((image.shape[0], image.shape[1]))
        heat_map = explanation.token_maps(choice)[phrase.image]
        masked = Image.fromarray(overlay_mask(image, phrase.mask, color))
        panels = {
            "picture and box": _draw_box(image, phrase.box_xyxy, (height, width), color),
            f"attention, {100 * heat_map.sum():.0f} % on this picture": Image.fromarray(
                draw_heat(image, heat_map, (height, width))
            ),
            f"mask, score {phrase.score:.2f}": masked.resize((width, height)),
        }
        title = f"{phrase.text}   ({phrase.role})"
        if len(explanation.images) > 1:
            title += f", picture {phrase.image}"
        body = _place_beside([_caption(panel, text) for text, panel in panels.items()], _GAP)
        rows.append(_stack([_draw_lines([(title, 18, _INK)], body.width), body], None, 4))
    return _stack(rows, None, _MARGIN, _MARGIN)


def draw_ranking(
    explanation: Explanation,
    image: int = 0,
    box: Sequence[float] | np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> Image.Image:
    """A region of a picture and, beside it, the tokens that look there most, as bars."""
    ranked = explanation.rank_tokens(image, box, mask)[:_BARS]
    picture = explanation.images[image]
    height, width = compute_panel_size((picture.shape[0], picture.shape[1]))
    if mask is None:
        drawn = _draw_box(picture, np.asarray(box, float), (height, width), get_color(0))
    else:
        masked = Image.fromarray(overlay_mask(picture, np.asarray(mask), get_color(0)))
        drawn = masked.resize((width, height))
    bars = _draw_bars(explanation, ranked)
    expected = ranked[0].expected if ranked else 0.0
    title = [
        ("which tokens look here", 18, _INK),
        (
            "share of a token's attention inside the region, minus the region's own share of the "
            f"picture, {100 * expected:.1f} %",
            13,
            _GREY,
        ),
    ]
    body = _place_beside([drawn, bars], 2 * _GAP)
    return _stack([_draw_lines(title, max(body.width, 640)), body], None, _GAP, _MARGIN)


def _draw_tile(explanation: Explanation, span: Span) -> Image.Image:
    """A word's heat on the picture it looks at most, the word and its weight under it."""
    image = explanation.choose_image(span)
    heat_map, picture = explanation.token_maps(span)[image], explanation.images[image]
    scale = _TILE_WIDTH / max(picture.shape[1], picture.shape[0])
    size = max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale))
    heat = Image.fromarray(draw_heat(picture, heat_map, size))
    tile = Image.new("RGB", (_TILE_WIDTH, size[0] + 42), _PAPER)
    tile.paste(heat, ((_TILE_WIDTH - size[1]) // 2, 0))
    pen = ImageDraw.Draw(tile)
    word = _fit(join_text(explanation.tokens[slice(*span)]), _TILE_WIDTH, _load_font(16))
    pen.text((0, size[0] + 4), word, fill=_INK, font=_load_font(16))
    where = f"on picture {image}" if len(explanation.images) > 1 else "on the picture"
    note = f"{100 * heat_map.sum():.0f} % {where}"
    pen.text((0, size[0] + 23), _fit(note, _TILE_WIDTH, _load_font(12)), _GREY, _load_font(12))
    return tile


def _draw_talk(explanation: Explanation, note: str) -> Image.Image:
    """Every question and answer, wrapped, and a note."""
    lines: list[tuple[str, int, Any]] = []
    for turn in explanation.turns:
        lines += [(turn.question, 14, _GREY), (turn.text or "(no answer)", 18, _INK)]
    if explanation.notice:
        lines.append((explanation.notice, 14, _BAR))
    return _draw_lines([*lines, (note, 13, _GREY)], _SHEET_WIDTH - 2 * _MARGIN)


def _draw_bars(explanation: Explanation, ranked: Sequence[RankedToken]) -> Image.Image:
    """A bar per token, the words around it in grey."""
    size = _LABEL_WIDTH + _BAR_WIDTH + 70, _BAR_HEIGHT * max(1, len(ranked))
    sheet = Image.new("RGB", size, _PAPER)
    pen, font = ImageDraw.Draw(sheet), _load_font(14)
    greatest = max([abs(item.excess) for item in ranked], default=0) or 1.0
    for row, item in enumerate(ranked):
        top = row * _BAR_HEIGHT
        sheet.paste(_draw_label(explanation, item.index), (0, top))
        end = _LABEL_WIDTH + max(1, round(_BAR_WIDTH * abs(item.excess) / greatest))
        color = _BAR if item.excess > 0 else _BAR_BELOW
        pen.rectangle((_LABEL_WIDTH, top + 5, end, top + 18), fill=color)
        pen.text((end + 6, top + 3), f"{100 * item.excess:+.1f} %", fill=_INK, font=font)
    return sheet


def _draw_label(explanation: Explanation, index: int) -> Image.Image:
    """A token and, in grey, the two on each side of it in the same question or answer."""
    token, tokens = explanation.tokens[index], explanation.tokens

    def join(first: int, last: int) -> str:
        near = tokens[max(0, first) : last]
        return "".join(
            item.text for item in near if (item.turn, item.role) == (token.turn, token.role)
        )

    label = Image.new("RGB", (_LABEL_WIDTH - 12, _BAR_HEIGHT), _PAPER)
    pen, font, left = ImageDraw.Draw(label), _load_font(14), 0.0
    before, after = join(index - 2, index).lstrip(), join(index + 1, index + 3)
    word = token.text if before else token.text.lstrip()
    for text, color in ((before, _GREY), (word if word.strip() else "·", _INK), (after, _GREY)):
        text = text.replace("\n", " ")  # Pillow draws no line breaks here
        pen.text((left, 3), text, fill=color, font=font)
        left += font.getlength(text)
    return label


def _draw_box(image: np.ndarray, box_xyxy: np.ndarray, size: Size, color: Any) -> Image.Image:
    """The picture at ``size`` with a box (px of the original); none where the box is NaN."""
    drawn = Image.fromarray(image).resize(size[::-1])
    if np.isfinite(box_xyxy).all():
        x_scale, y_scale = size[1] / image.shape[1], size[0] / image.shape[0]
        x0, y0, x1, y1 = box_xyxy * np.array([x_scale, y_scale, x_scale, y_scale])
        corners = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
        ImageDraw.Draw(drawn).rectangle(corners, outline=color, width=3)
    return drawn


def _caption(panel: Image.Image, text: str) -> Image.Image:
    """A panel with a line of small grey text over it."""
    return _stack([_draw_lines([(text, 13, _GREY)], panel.width), panel], None, 2)


def _draw_lines(lines: Sequence[tuple[str, int, Any]], width: int) -> Image.Image:
    """Texts of (text, font size, colour), wrapped to a width in pixels."""
    wrapped = [
        (part, size, color) for text, size, color in lines for part in _wrap(text, width, size)
    ]
    sheet = Image.new("RGB", (width, sum(size + 8 for _, size, _ in wrapped)), _PAPER)
    pen, top = ImageDraw.Draw(sheet), 0
    for text, size, color in wrapped:
        pen.text((0, top + 2), text, fill=color, font=_load_font(size))
        top += size + 8
    return sheet


def _wrap(text: str, width: int, size: int) -> list[str]:
    """Lines no wider than ``width``; a word that is wider is cut."""
    font, lines = _load_font(size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(_fit(word, width, font))
    return [line for line in lines if line] or [""]


def _fit(text: str, room_px: float, font: Any) -> str:
    """The text on one line, cut with dots where it is wider than ``room_px``."""
    text = " ".join(text.split())
    if font.getlength(text) <= room_px:
        return text
    while text and font.getlength(text + "...") > room_px:
        text = text[:-1]
    return text + "..." if text else ""


def _place_beside(parts: Sequence[Image.Image], gap: int) -> Image.Image:
    width = sum(part.width for part in parts) + gap * (len(parts) - 1)
    sheet = Image.new("RGB", (width, max(part.height for part in parts)), _PAPER)
    left = 0
    for part in parts:
        sheet.paste(part, (left, 0))
        left += part.width + gap
    return sheet


def _stack(
    parts: Sequence[Image.Image], width: int | None, gap: int = _GAP, margin: int | None = None
) -> Image.Image:
    """Parts one under the other; a given width brings the usual margin."""
    margin = margin if margin is not None else 0 if width is None else _MARGIN
    width = max(part.width for part in parts) + 2 * margin if width is None else width
    height = sum(part.height for part in parts) + gap * (len(parts) - 1) + 2 * margin
    sheet = Image.new("RGB", (width, height), _PAPER)
    top = margin
    for part in parts:
        sheet.paste(part, (margin, top))
        top += part.height + gap
    return sheet


@functools.cache
def _load_font(size: int) -> Any:
    """matplotlib's DejaVu Sans, which has more letters than Pillow's own font."""
    spec = importlib.util.find_spec("matplotlib")
    for folder in (spec and spec.submodule_search_locations) or []:
        path = Path(folder, "mpl-data/fonts/ttf/DejaVuSans.ttf")
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size=size)


__all__ = ["draw_heat", "draw_ranking", "draw_sheet", "draw_words"]
