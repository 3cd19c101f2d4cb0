"""An explanation as JSON, and as tables on the screen for ``tools/explain.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flmm.apps.explanation.explained_chat import ExplainedChat
from flmm.apps.explanation.regions import RankedToken
from flmm.conversation import PointedPhrase
from flmm.records import Span
from flmm.tables import format_text, tabulate

ROWS_SHOWN = 12


def build_report(explanation: ExplainedChat) -> dict[str, Any]:
    """Everything that is known, JSON ready; documented in docs/explanation.md."""
    pictures = zip(explanation.images, explanation.maps)
    tokens = [
        {name: getattr(token, name) for name in ("turn", "role", "place", "span", "text")}
        | {"maps": [_round(maps[index]) for maps in explanation.maps]}
        for index, token in enumerate(explanation.tokens)
    ]
    turns = [
        {name: getattr(turn, name) for name in ("question", "text", "end_reason")}
        | {"phrases": turn.to_coco()}
        for turn in explanation.turns
    ]
    return {
        "notice": explanation.notice,
        "heads": "all" if explanation.heads is None else explanation.heads,
        "images": [{"size": image.shape[:2], "grid": maps.shape[1:]} for image, maps in pictures],
        "turns": turns,
        "tokens": tokens,
    }


def print_report(
    explanation: ExplainedChat,
    phrases: Sequence[tuple[Span, PointedPhrase]],
    rankings: Sequence[tuple[Sequence[float], Sequence[RankedToken]]],
) -> None:
    """What was said, where words look, and which tokens look at boxes (xyxy, pixels)."""
    for turn in explanation.turns:
        print(f"question: {turn.question}\nanswer:   {turn.text}")
    if explanation.notice:
        print(f"note:     {explanation.notice}")
    if phrases:
        rows = [_build_word_row(explanation, span, phrase) for span, phrase in phrases]
        print(f"\n{format_text(tabulate(rows))}")
    for box, ranked in rankings:
        print(f"\nlooking at the box {' '.join(f'{edge:g}' for edge in box)}:")
        rows = [_build_token_row(item) for item in ranked[:ROWS_SHOWN]]
        print(format_text(tabulate(rows)))


def _build_word_row(
    explanation: ExplainedChat, span: Span, phrase: PointedPhrase
) -> dict[str, Any]:
    box = [] if phrase.is_empty else [str(round(edge)) for edge in phrase.box_xyxy.tolist()]
    return {
        "word": phrase.text,
        "tokens": f"{span[0]} to {span[1]}",
        "of": phrase.role,
        "picture": phrase.image,
        "attention on it %": 100 * float(explanation.token_maps(span)[phrase.image].sum()),
        "box (x0 y0 x1 y1)": " ".join(box) or None,
        "score": phrase.score,
    }


def _build_token_row(item: RankedToken) -> dict[str, Any]:
    token = {"token": repr(item.token.text), "of": item.token.role, "turn": item.token.turn}
    figures = ("excess", "share", "expected")
    return token | {f"{name} %": 100 * getattr(item, name) for name in figures}


def _round(grid: np.ndarray) -> list[list[float]]:
    """Six significant digits."""
    return [[float(f"{value:.6g}") for value in row] for row in grid.tolist()]
