"""Draws masks, attention maps and rows of captioned panels; reads and writes no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from flmm.geometry import Size, compute_coverage, resize_maps, resize_masks

Color = tuple[int, int, int]

# Told apart on dark and bright pictures, and by readers with the common colour blindnesses.
PALETTE: tuple[Color, ...] = (
    (255, 107, 53),
    (0, 158, 222),
    (255, 205, 0),
    (200, 80, 192),
    (0, 170, 110),
    (230, 57, 80),
    (120, 110, 255),
    (150, 190, 40),
)
BEST_CHANNELS = 8
# Dark violet over red and orange to pale yellow: even steps in lightness.
_RAMP = np.array([(13, 8, 60), (110, 25, 120), (205, 60, 80), (250, 150, 40), (252, 250, 170)])
_MIN_PANEL_HEIGHT, _MAX_PANEL_HEIGHT = 224, 480
_MIN_CELL_WIDTH, _MAX_PANEL_WIDTH = 180, 640
_GAP, _TITLE_HEIGHT, _CAPTION_HEIGHT = 8, 30, 22
_INK, _GREY, _PAPER = (25, 25, 25), (95, 95, 95), (255, 255, 255)


def get_color(index: int) -> Color:
    """The RGB colour of phrase ``index``; the palette repeats."""
    return PALETTE[index % len(PALETTE)]


def overlay_mask(image: np.ndarray, mask: np.ndarray, color: Color) -> np.ndarray:
    """A uint8 picture ``[H, W, 3]`` with a mask ``[H, W]`` half tinted, its rim opaque."""
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"mask of size {mask.shape} does not fit the image of size {image.shape[:2]} "
            "(h, w): resize one to the other first"
        )
    drawn = image.copy()
    drawn[mask] = np.rint((image[mask] + np.array(color)) / 2).astype(np.uint8)
    framed = np.pad(mask, 1)
    inner = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    drawn[mask & ~inner] = color  # what touches the outside, or the frame's edge
    return drawn


def colorize_map(heat_map: np.ndarray, size: Size) -> np.ndarray:
    """A map ``[h, w]`` as uint8 RGB ``[H, W, 3]``: its lowest value violet, its highest yellow."""
    strength, stops = stretch_map(heat_map, size), np.linspace(0, 1, len(_RAMP))
    colors = [np.interp(strength, stops, _RAMP[:, channel]) for channel in range(3)]
    return np.rint(np.stack(colors, axis=-1)).astype(np.uint8)


def overlay_heat(image: np.ndarray, heat_map: np.ndarray) -> np.ndarray:
    """Colours of a map ``[h, w]`` over the greyed uint8 ``[H, W, 3]``, more opaque where high."""
    size = image.shape[0], image.shape[1]
    grey = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
    opacity = 0.3 + 0.55 * stretch_map(heat_map, size)[..., None]
    colors = colorize_map(heat_map, size)
    return np.rint(grey * (1 - opacity) + colors * opacity).astype(np.uint8)


def stretch_map(heat_map: np.ndarray, size: Size) -> np.ndarray:
    """A map ``[h, w]`` resized to (H, W) and brought to [0, 1]; all 0 where it is even."""
    values = resize_map(heat_map, size)
    low, high = values.min(), values.max()
    return (values - low) / max(high - low, 1e-12)


def resize_map(values: np.ndarray, size: Size) -> np.ndarray:
    """Bilinear resize of ``[h, w]`` to ``size``, float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return resize_maps(tensor[None], size)[0].numpy()


def resize_mask(mask: np.ndarray, size: Size) -> np.ndarray:
    """A bool mask ``[h, w]`` on another grid over the same frame."""
    return resize_masks(torch.tensor(mask, dtype=torch.bool)[None], size)[0].numpy()


def merge_channels(maps: np.ndarray, mask: np.ndarray, best: int = BEST_CHANNELS) -> np.ndarray:
    """The mean of the ``best`` attention channels that favour a mask most.

    Every channel of ``[C, h, w]`` is divided by its sum first. It favours the mask, ``[H, W]`` on
    any grid over the frame, by the share of its attention inside; an empty one all favour alike.
    """
    maps = maps / np.maximum(maps.sum((1, 2), keepdims=True), 1e-12)
    if not mask.any():
        return maps.mean(0)
    masks = torch.tensor(mask, dtype=torch.bool)[None]
    inside = compute_coverage(masks, (maps.shape[1], maps.shape[2]))[0].numpy()
    shares = (maps * inside).sum((1, 2))
    return maps[np.argsort(-shares, kind="stable")[:best]].mean(0)


def draw_masks(
    image: np.ndarray, masks: dict[str, np.ndarray], phrase: str, note: str, color: Color
) -> Image.Image:
    """One row: uint8 RGB ``[H, W, 3]``, then it under each mask, by caption, on any grid."""
    size = compute_panel_size((image.shape[0], image.shape[1]))
    scaled = np.array(Image.fromarray(image).resize(size[::-1]))
    panels = {"image": scaled}
    for caption, mask in masks.items():
        panels[caption] = overlay_mask(scaled, resize_mask(mask, size), color)
    return compose_row(panels, phrase, note, color)


def compose_row(panels: dict[str, np.ndarray], phrase: str, note: str, color: Color) -> Image.Image:
    """Panels of one size, uint8 RGB by caption, in a row under a coloured square, phrase, note."""
    height, width = next(iter(panels.values())).shape[:2]
    cell = max(width, _MIN_CELL_WIDTH)
    top = _TITLE_HEIGHT + _CAPTION_HEIGHT
    row = Image.new("RGB", (len(panels) * (cell + _GAP) + _GAP, top + height + _GAP), _PAPER)
    pen = ImageDraw.Draw(row)
    title, small = ImageFont.load_default(size=17), ImageFont.load_default(size=13)
    pen.rectangle((_GAP, 9, _GAP + 13, 22), fill=color)
    note_x = row.width - _GAP - title.getlength(note)
    pen.text((note_x, 5), note, fill=_INK, font=title)
    room = note_x - _GAP - 20 - 12
    pen.text((_GAP + 20, 5), shorten_text(phrase, room, title), fill=_INK, font=title)
    for column, (caption, panel) in enumerate(panels.items()):
        left = _GAP + column * (cell + _GAP)
        caption = shorten_text(caption, cell, small)
        pen.text((left, _TITLE_HEIGHT + 3), caption, fill=_GREY, font=small)
        row.paste(Image.fromarray(panel), (left + (cell - width) // 2, top))
    return row


def stack_rows(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures of any widths, one or more, below each other on white."""
    width = max(row.width for row in rows)
    height = sum(row.height for row in rows) + _GAP * (len(rows) - 1)
    sheet = Image.new("RGB", (width, height), _PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + _GAP
    return sheet


def compute_panel_size(size: Size) -> Size:
    """(h, w) at which a picture of ``size`` is drawn: small ones grow, large ones shrink."""
    height, width = size
    scale = max(1.0, _MIN_PANEL_HEIGHT / height)
    scale = min(scale, _MAX_PANEL_HEIGHT / height, _MAX_PANEL_WIDTH / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def shorten_text(text: str, room_px: float, font: Any) -> str:
    """The text on one line, cut with dots where it is wider than ``room_px``."""
    text = " ".join(text.split())
    if font.getlength(text) <= room_px:
        return text
    while text and font.getlength(text + "...") > room_px:
        text = text[:-1]
    return text + "..."
