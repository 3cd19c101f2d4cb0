"""Explanations as pictures: a sheet of words, rows of words with masks, a region's ranking.

Out: PNG files as bytes. Letters that the font lacks (Chinese, emoji) are drawn as empty boxes; the
HTML page shows every script.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flmm.apps.explanation.explained_chat import ExplainedChat, TokenChoice
from flmm.apps.explanation.reading import RegionBox, RegionMask
from flmm.apps.explanation.tokens import group_words, join_text
from flmm.visualization import get_color, overlay_heat, overlay_mask

_WIDTH = 11.2  # inches of a sheet, at 100 px
_LINE = 0.24
_COLUMNS, _MAX_TILES, _BARS = 6, 60, 16
_GREY, _ABOVE, _BELOW = "#696969", "#0078be", "#c8c8c8"


def draw_sheet(explanation: ExplainedChat) -> bytes:
    """Question and answer of every turn, and a small panel for each word of the answers.

    Each panel shows the picture that the word looks at most. At most 60 words are drawn; the sheet
    says how many are not.
    """
    tokens = explanation.tokens
    words = [span for span in group_words(tokens) if tokens[span[0]].role == "answer"]
    lines = [text for turn in explanation.turns for text in (turn.question, turn.text)]
    note = (
        f"where each word of the answer looks, % of its attention: {explanation.describe_heads()}"
    )
    if len(words) > _MAX_TILES:
        note += f"; {len(words) - _MAX_TILES} more words are not drawn here: save_html shows all"
    rows = -(-min(len(words), _MAX_TILES) // _COLUMNS)
    figure, panels = _open_figure([*lines, explanation.notice, note], (rows, _COLUMNS), 2.0)
    for panel, span in zip(panels, words[:_MAX_TILES]):
        image = explanation.choose_image(span)
        heat = explanation.token_maps(span)[image]
        panel.imshow(overlay_heat(explanation.images[image], heat))
        where = f" on picture {image}" if len(explanation.images) > 1 else ""
        word = textwrap.shorten(join_text(explanation.tokens[slice(*span)]), 20, placeholder="...")
        _write(panel, f"{word}\n{100 * heat.sum():.0f} %{where}")
    return _encode(figure)


def draw_words(explanation: ExplainedChat, words: Sequence[TokenChoice]) -> bytes:
    """A row for each word: the picture with the mask's box, attention, mask."""
    if not words:
        raise ValueError("no word to draw: give at least one, or None for a sheet of all")
    figure, panels = _open_figure([], (len(words), 3), 3.4)
    for number, choice in enumerate(words):
        phrase, color = explanation.ground(choice), get_color(number)
        image = explanation.images[phrase.image]
        heat = explanation.token_maps(choice)[phrase.image]
        left, middle, right = panels[3 * number : 3 * number + 3]
        left.imshow(image)
        _draw_box(left, phrase.box_xyxy, color)
        middle.imshow(overlay_heat(image, heat))
        right.imshow(overlay_mask(image, phrase.mask, color))
        where = f", picture {phrase.image}" if len(explanation.images) > 1 else ""
        _write(left, f"{phrase.text} ({phrase.role}{where})")
        _write(middle, f"attention, {100 * heat.sum():.0f} % on this picture")
        _write(right, f"mask, score {phrase.score:.2f}")
    return _encode(figure)


def draw_ranking(
    explanation: ExplainedChat, image: int = 0, box: RegionBox = None, mask: RegionMask = None
) -> bytes:
    """A region of a picture and, beside it, the tokens that look there most, as bars."""
    ranked = explanation.rank_tokens(image, box, mask)[:_BARS]
    expected = 100 * (ranked[0].expected if ranked else 0.0)
    note = "which tokens look here: share of their attention inside the region, minus the region's "
    figure, (left, right) = _open_figure([f"{note}{expected:.1f} % of the picture"], (1, 2), 4.6)
    picture = explanation.images[image]
    left.imshow(picture if mask is None else overlay_mask(picture, mask, get_color(0)))
    if box is not None:
        _draw_box(left, np.asarray(box, float), get_color(0))
    values = [100 * item.excess for item in ranked]
    bars = right.barh(
        range(len(ranked)), values, color=[_ABOVE if value > 0 else _BELOW for value in values]
    )
    right.bar_label(bars, [f"{value:+.1f} %" for value in values], padding=3)
    right.set_axis_on()
    right.spines[:].set_visible(False)
    right.invert_yaxis()
    right.set_xticks([])
    right.margins(x=0.2)
    labels = [_quote_near(explanation, item.index) for item in ranked]
    right.set_yticks(range(len(ranked)), labels, parse_math=False)
    return _encode(figure)


def _quote_near(explanation: ExplainedChat, index: int) -> str:
    """A token in brackets, and the two on each side of it in the same question or answer."""
    token, tokens = explanation.tokens[index], explanation.tokens

    def join(first: int, last: int) -> str:
        near = tokens[max(0, first) : last]
        same = [item for item in near if (item.turn, item.role) == (token.turn, token.role)]
        return " ".join(join_text(same).split())

    around = (join(index - 2, index), join(index + 1, index + 3))
    return f"{around[0]} [{token.text.strip() or '·'}] {around[1]}".strip()


def _open_figure(
    lines: Sequence[str], panels: tuple[int, int], height: float
) -> tuple[Figure, list[Axes]]:
    """A figure with wrapped lines over rows and columns of panels, ``height`` inches each."""
    wrapped = [part for line in lines if line for part in textwrap.wrap(line, 150)]
    head = _LINE * (len(wrapped) + 2)
    rows, columns = max(1, panels[0]), panels[1]
    whole = head + rows * height
    figure = Figure(figsize=(_WIDTH, whole))  # no pyplot: its state is the process's
    for number, line in enumerate(wrapped, start=1):
        place = 1 - number * _LINE / whole
        figure.text(0.02, place, line, fontsize=9, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    figure.subplots_adjust(0.02, 0.02, 0.98, 1 - head / whole, wspace=0.3 if columns == 2 else 0.06)
    for axis in axes:
        axis.set_axis_off()
    return figure, axes


def _draw_box(axes: Axes, box_xyxy: np.ndarray, color: tuple[int, int, int]) -> None:
    """Nothing where the box is NaN."""
    if np.isfinite(box_xyxy).all():
        x0, y0, x1, y1 = box_xyxy
        edge = np.array(color) / 255
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=edge, lw=2))


def _write(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=8, color=_GREY, parse_math=False)


def _encode(figure: Any) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the page shows what the font lacks
        figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()
