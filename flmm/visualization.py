"""Draws what the grounder found: masks, attention maps and panels.

In: a picture and masks, maps or a result; out: arrays, PIL images and strings. Nothing here reads
or writes a file, and nothing computes a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from flmm.geometry import Size, compute_coverage, resize_maps, resize_masks
from flmm.images import load_image

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
# Dark violet over red and orange to pale yellow: even steps in lightness.
_RAMP = np.array([(13, 8, 60), (110, 25, 120), (205, 60, 80), (250, 150, 40), (252, 250, 170)])
_MIN_PANEL_HEIGHT, _MAX_PANEL_HEIGHT = 224, 480
_MIN_CELL_WIDTH, _MAX_PANEL_WIDTH = 180, 640
_GAP, _TITLE_HEIGHT, _CAPTION_HEIGHT = 8, 30, 22
_INK, _GREY, _PAPER = (25, 25, 25), (95, 95, 95), (255, 255, 255)
_BEST_CHANNELS = 8


class Drawable(Protocol):
    """What a panel is drawn from; :class:`flmm.results.GroundingResult` is one."""

    coarse_mask_logits: np.ndarray | None
    attention_maps: np.ndarray | None

    @property
    def phrases(self) -> list[str]:
        """P of them."""

    @property
    def scores(self) -> np.ndarray:
        """Float32 ``[P]``."""

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """Float32 ``[P, 4]``."""

    @property
    def masks(self) -> np.ndarray:
        """Bool ``[P, H, W]``."""


def get_color(index: int) -> Color:
    """The RGB colour of phrase ``index``; the palette repeats."""
    return PALETTE[index % len(PALETTE)]


def overlay_mask(
    image: np.ndarray, mask: np.ndarray, color: Color, opacity: float = 0.5
) -> np.ndarray:
    """Tint the inside of a mask and draw its rim; the outside stays untouched.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        mask: bool ``[H, W]``.
        color: RGB, each in [0, 255].
        opacity: of the tint, in [0, 1]; the rim is opaque.

    Returns:
        a new uint8 ``[H, W, 3]``.

    Raises:
        ValueError: mask and image differ in size.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"mask of size {mask.shape} does not fit the image of size {image.shape[:2]} "
            "(h, w): resize one to the other first"
        )
    drawn = image.copy()
    tint = image[mask] * (1 - opacity) + np.array(color) * opacity
    drawn[mask] = np.rint(tint).astype(np.uint8)
    drawn[mask & ~_erode(mask)] = color
    return drawn


def colorize_map(heat_map: np.ndarray, size: Size) -> np.ndarray:
    """A map as colours: its lowest value dark violet, its highest pale yellow.

    Args:
        heat_map: float ``[h, w]``, any range.
        size: (H, W) of the picture to be drawn (bilinear).

    Returns:
        uint8 RGB ``[H, W, 3]``.
    """
    return _apply_ramp(_stretch(_resize_map(heat_map, size)))


def merge_channels(maps: np.ndarray, mask: np.ndarray, best: int = _BEST_CHANNELS) -> np.ndarray:
    """The mean of the attention channels that favour a mask most.

    Every channel is divided by its sum first. A channel favours the mask by the share of its
    attention that lies inside; for an empty mask all channels count alike.

    Args:
        maps: float ``[C, h, w]``, not negative.
        mask: bool ``[H, W]`` on any grid over the same frame.
        best: how many channels are merged.

    Returns:
        float ``[h, w]``.
    """
    maps = maps / np.maximum(maps.sum((1, 2), keepdims=True), 1e-12)
    if not mask.any():
        return maps.mean(0)
    inside = compute_coverage(_to_masks(mask), (maps.shape[1], maps.shape[2]))[0].numpy()
    shares = (maps * inside).sum((1, 2))
    return maps[np.argsort(-shares, kind="stable")[:best]].mean(0)


def draw_panels(
    image: np.ndarray | Image.Image,
    result: Drawable,
    ious: Sequence[float] | None = None,
) -> Image.Image:
    """One row per phrase: picture and box, attention, coarse mask, refined mask.

    Args:
        image: the picture as given, uint8 RGB ``[H, W, 3]`` or PIL.
        result: with ``coarse_mask_logits`` and ``attention_maps``.
        ious: per phrase, IoU with the true mask in [0, 1], where it is known.

    Returns:
        RGB picture; panels are 224 to 480 px high, lower only where the picture is very wide.

    Raises:
        ValueError: the result was made without its maps, holds no phrase, or has another number
            of phrases than ``ious``.
    """
    _require_maps(result)
    if not result.phrases:
        raise ValueError("the result holds no phrase to draw: ground at least one")
    known_ious = [None] * len(result.phrases) if ious is None else list(ious)
    if len(known_ious) != len(result.phrases):
        raise ValueError(
            f"got {len(known_ious)} IoUs for {len(result.phrases)} phrases: give one per phrase"
        )
    picture = load_image(image)
    scaled = picture.resize(compute_panel_size((picture.height, picture.width))[::-1])
    rows = [
        _draw_row(np.array(scaled), picture.size, result, index, iou)
        for index, iou in enumerate(known_ious)
    ]
    return stack_rows(rows)


def draw_masks(
    image: np.ndarray, masks: dict[str, np.ndarray], phrase: str, note: str, color: Color
) -> Image.Image:
    """One row: the picture, then the picture under each mask.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        masks: caption -> bool mask, on any grid over the picture's frame.
        phrase: the title, to the left.
        note: to the right of it.
        color: of the masks, RGB.

    Returns:
        RGB picture, its panels as in :func:`draw_panels`.
    """
    size = compute_panel_size((image.shape[0], image.shape[1]))
    scaled = np.array(Image.fromarray(image).resize(size[::-1]))
    panels = {"image": scaled}
    for caption, mask in masks.items():
        fitting = resize_masks(_to_masks(mask), size)[0].numpy()
        panels[caption] = overlay_mask(scaled, fitting, color)
    return _compose_row(panels, phrase, note, color)


def stack_rows(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, on white.

    Args:
        rows: one or more, of any widths.
    """
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


def _require_maps(result: Drawable) -> tuple[np.ndarray, np.ndarray]:
    """``attention_maps`` and ``coarse_mask_logits``."""
    if result.attention_maps is None or result.coarse_mask_logits is None:
        raise ValueError(
            "the result holds no maps to draw: ground with return_maps=True, for example "
            "grounder(image, phrases, return_maps=True)"
        )
    return result.attention_maps, result.coarse_mask_logits


def _draw_row(
    scaled: np.ndarray,
    image_size: tuple[int, int],
    result: Drawable,
    index: int,
    iou: float | None,
) -> Image.Image:
    """A title and four captioned panels; ``image_size`` is (W, H) of the original."""
    size, color = (scaled.shape[0], scaled.shape[1]), get_color(index)
    attention_maps, coarse_mask_logits = _require_maps(result)
    mask, channels = result.masks[index], attention_maps[index]
    coarse = _resize_map(coarse_mask_logits[index], size) > 0
    refined = resize_masks(_to_masks(mask), size)[0].numpy()
    heat = merge_channels(channels, mask if mask.any() else coarse)
    panels = {
        "image and box": _draw_box(scaled, result.boxes_xyxy[index], image_size, color),
        _describe_channels(len(channels)): _overlay_heat(scaled, heat),
        "coarse mask": overlay_mask(scaled, coarse, color),
        "refined mask": overlay_mask(scaled, refined, color),
    }
    score = f"score {result.scores[index]:.2f}"
    note = score if iou is None else f"{score}   IoU {iou:.2f}"
    return _compose_row(panels, result.phrases[index], note, color)


def _compose_row(
    panels: dict[str, np.ndarray], phrase: str, note: str, color: Color
) -> Image.Image:
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


def _draw_box(
    scaled: np.ndarray, box_xyxy: np.ndarray, image_size: tuple[int, int], color: Color
) -> np.ndarray:
    """The picture with one box (px of the original); none where the box is NaN."""
    drawn = Image.fromarray(scaled)
    if np.isfinite(box_xyxy).all():
        x_scale, y_scale = drawn.width / image_size[0], drawn.height / image_size[1]
        x0, y0, x1, y1 = np.asarray(box_xyxy) * [x_scale, y_scale, x_scale, y_scale]
        corners = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
        ImageDraw.Draw(drawn).rectangle(corners, outline=color, width=3)
    return np.array(drawn)


def _overlay_heat(scaled: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Colours over the greyed picture, more opaque where the attention is higher."""
    strength = _stretch(_resize_map(heat, scaled.shape[:2]))
    grey = np.repeat(scaled.mean(2, keepdims=True), 3, axis=2)
    opacity = 0.3 + 0.55 * strength[..., None]
    blended = grey * (1 - opacity) + _apply_ramp(strength) * opacity
    return np.rint(blended).astype(np.uint8)


def _describe_channels(count: int) -> str:
    return f"attention ({min(_BEST_CHANNELS, count)} best of {count})"


def _to_masks(mask: np.ndarray) -> torch.Tensor:
    """``[H, W]`` to bool ``[1, H, W]``."""
    return torch.from_numpy(np.array(mask, dtype=bool))[None]


def _resize_map(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Bilinear resize of ``[h, w]`` to ``size``, float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return resize_maps(tensor[None], (size[0], size[1]))[0].numpy()


def _stretch(values: np.ndarray) -> np.ndarray:
    """Values brought to [0, 1]; all 0 where they are all equal."""
    low, high = values.min(), values.max()
    return (values - low) / max(high - low, 1e-12)


def _apply_ramp(strength: np.ndarray) -> np.ndarray:
    """``[H, W]`` in [0, 1] to uint8 RGB ``[H, W, 3]``."""
    stops = np.linspace(0, 1, len(_RAMP))
    colors = [np.interp(strength, stops, _RAMP[:, channel]) for channel in range(3)]
    return np.rint(np.stack(colors, axis=-1)).astype(np.uint8)


def _erode(mask: np.ndarray) -> np.ndarray:
    """The mask without the pixels that touch its outside (or the frame's edge)."""
    framed = np.pad(mask, 1)
    return mask & framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]


def shorten_text(text: str, room_px: float, font: Any) -> str:
    """The text on one line, cut with dots where it is wider than ``room_px``."""
    text = " ".join(text.split())
    if font.getlength(text) <= room_px:
        return text
    while text and font.getlength(text + "...") > room_px:
        text = text[:-1]
    return text + "..."
