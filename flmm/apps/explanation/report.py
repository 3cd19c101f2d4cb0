"""An explanation as JSON, and as tables and files for ``tools/explain.py``.

In: an explanation. Out: plain values; text on the screen and files in a folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flmm.apps.explanation.regions import RankedToken
from flmm.conversation import PointedPhrase
from flmm.records import Span
from flmm.tables import format_text, tabulate

if TYPE_CHECKING:
    from flmm.apps.explanation.explanation import Explanation

ROWS_SHOWN = 12


def build_report(explanation: Explanation) -> dict[str, Any]:
    """Everything that is known, JSON ready; documented in docs/explanation.md."""
    return {
        "notice": explanation.notice,
        "heads": "all" if explanation.heads is None else [list(item) for item in explanation.heads],
        "images": [
            {"size": list(image.shape[:2]), "grid": list(maps.shape[1:])}
            for image, maps in zip(explanation.images, explanation.maps)
        ],
        "turns": [
            {
                "question": turn.question,
                "text": turn.text,
                "end_reason": turn.end_reason,
                "phrases": turn.to_coco(),
            }
            for turn in explanation.turns
        ],
        "tokens": [
            {
                "turn": token.turn,
                "role": token.role,
                "place": token.place,
                "span": list(token.span),
                "text": token.text,
                "maps": [_round(maps[index]) for maps in explanation.maps],
            }
            for index, token in enumerate(explanation.tokens)
        ],
    }


def save_results(
    explanation: Explanation,
    folder: Path,
    name: str,
    words: Sequence[str] = (),
    boxes: Sequence[Sequence[float]] = (),
    image: int = 0,
) -> None:
    """Print what is asked for and save page, JSON and pictures as ``folder/name*``.

    Args:
        explanation: to be shown.
        folder: made if missing.
        name: stem of the files.
        words: wherever they stand, their map and mask.
        boxes: xyxy in pixels of picture ``image``; the tokens that look there.
        image: which picture the boxes are in, from 0.

    Raises:
        ValueError: a word stands nowhere, or a box is empty or outside.
    """
    spans = [span for word in words for span in explanation.find(word)]
    rankings = [explanation.rank_tokens(image, box=box) for box in boxes]
    phrases = [explanation.ground(span) for span in spans]
    for turn in explanation.turns:
        print(f"question: {turn.question}\nanswer:   {turn.text}")
    if explanation.notice:
        print(f"note:     {explanation.notice}")
    if spans:
        print("\n" + format_text(tabulate(_build_word_rows(explanation, spans, phrases))))
    saved = [
        explanation.save_html(folder / f"{name}.html", phrases, spans[0] if spans else None),
        explanation.save_json(folder / f"{name}.json"),
        explanation.save_png(folder / f"{name}.png"),
    ]
    if spans:
        saved.append(explanation.save_png(folder / f"{name}_words.png", spans))
    for number, (box, ranked) in enumerate(zip(boxes, rankings), start=1):
        print(f"\nlooking at the box {' '.join(f'{edge:g}' for edge in box)}:")
        print(format_text(tabulate(_build_token_rows(ranked[:ROWS_SHOWN]))))
        path = folder / f"{name}_box_{number}.png"
        saved.append(explanation.save_ranking_png(path, image, box))
    print("\nsaved " + "\n      ".join(map(str, saved)))


def _build_word_rows(
    explanation: Explanation, spans: Sequence[Span], phrases: Sequence[PointedPhrase]
) -> list[dict[str, Any]]:
    rows = []
    for span, phrase in zip(spans, phrases):
        box = phrase.box_xyxy
        text = "-" if np.isnan(box).any() else " ".join(str(round(edge)) for edge in box.tolist())
        weight = float(explanation.token_maps(span)[phrase.image].sum())
        rows.append(
            {
                "word": phrase.text,
                "tokens": f"{span[0]} to {span[1]}",
                "of": phrase.role,
                "picture": phrase.image,
                "attention on it %": 100 * weight,
                "box (x0 y0 x1 y1)": text,
                "score": phrase.score,
            }
        )
    return rows


def _build_token_rows(ranked: Sequence[RankedToken]) -> list[dict[str, Any]]:
    return [
        {
            "token": repr(item.token.text),
            "of": item.token.role,
            "turn": item.token.turn,
            "excess %": 100 * item.excess,
            "share %": 100 * item.share,
            "expected %": 100 * item.expected,
        }
        for item in ranked
    ]


def _round(grid: np.ndarray) -> list[list[float]]:
    """Six significant digits."""
    return [[float(f"{value:.6g}") for value in row] for row in grid.tolist()]


__all__ = ["build_report", "save_results"]
