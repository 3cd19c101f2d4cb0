"""The explanation of a conversation: token -> region, region -> token.

explanation = explain(chat)
explanation.token_maps("circle")  # where a word looks, per picture [h, w]
explanation.rank_tokens(0, box=(40, 30, 120, 90))  # which tokens look there
explanation.save_html("explanation.html")
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flmm.apps.explanation.drawing import draw_ranking, draw_sheet, draw_words
from flmm.apps.explanation.explained_chat import ExplainedChat, TokenChoice
from flmm.apps.explanation.page import build_page
from flmm.apps.explanation.reading import RankedToken, RegionBox, RegionMask
from flmm.conversation import Chat, PointedPhrase
from flmm.files import replace_file
from flmm.head_choice import Head
from flmm.records import Span
from flmm.tables import format_text, tabulate

ROWS_SHOWN = 12


def explain(chat: Chat, heads: Sequence[Head] | None = None) -> Explanation:
    """Read where every token of a conversation looked, in one pass over each turn's tokens.

    Args:
        chat: with at least one turn; no picture is read again.
        heads: (layer, head) of those whose mean is taken, such as
            ``rank_heads(...).best(8).heads``; ``None``: all.

    Raises:
        ValueError: there is no turn, or no such head.
    """
    if not chat.turns:
        raise ValueError("there is no turn to explain yet: ask a question first")
    with chat.lock:
        return Explanation(chat, heads)


class Explanation(ExplainedChat):
    """Where the tokens of a conversation looked, and its page, pictures and JSON."""

    def save_html(
        self,
        path: str | Path,
        regions: Sequence[PointedPhrase] = (),
        words: TokenChoice | None = None,
    ) -> Path:
        """Write one page that needs nothing beside it: no network, no other file.

        Args:
            regions: offered beside the phrases of the turns, such as :meth:`ground` gives.
            words: what the page shows when it is opened; ``None``: how it is used.
        """
        opened = None if words is None else self.resolve(words)
        return _write(path, build_page(self, regions, opened).encode())

    def save_json(self, path: str | Path) -> Path:
        """Write tokens, maps, turns and masks as JSON, see docs/explanation.md."""
        return _write(path, f"{json.dumps(_build_report(self), ensure_ascii=False)}\n".encode())

    def save_png(self, path: str | Path, words: Sequence[TokenChoice] | None = None) -> Path:
        """Draw a row for each of ``words``; ``None``: a sheet of all words of the answers."""
        return _write(path, draw_sheet(self) if words is None else draw_words(self, words))

    def save_ranking_png(
        self, path: str | Path, image: int = 0, box: RegionBox = None, mask: RegionMask = None
    ) -> Path:
        """Draw a region and the tokens that look there; arguments as :meth:`rank_tokens`."""
        return _write(path, draw_ranking(self, image, box, mask))


def save_results(
    explanation: Explanation,
    folder: Path,
    name: str,
    words: Sequence[str] = (),
    boxes: Sequence[Sequence[float]] = (),
    image: int = 0,
) -> None:
    """Print what is asked for and save page, JSON and pictures as ``folder/name*``.

    ``words`` are shown wherever they stand; ``boxes`` are xyxy in pixels of picture ``image``.
    """
    spans = [span for word in words for span in explanation.find(word)]
    rankings = [explanation.rank_tokens(image, box=box) for box in boxes]
    phrases = [explanation.ground(span) for span in spans]
    _print_report(explanation, list(zip(spans, phrases)), list(zip(boxes, rankings)))
    saved = [
        explanation.save_html(folder / f"{name}.html", phrases, spans[0] if spans else None),
        explanation.save_json(folder / f"{name}.json"),
        explanation.save_png(folder / f"{name}.png"),
    ]
    if spans:
        saved.append(explanation.save_png(folder / f"{name}_words.png", spans))
    for number, box in enumerate(boxes, start=1):
        path = folder / f"{name}_box_{number}.png"
        saved.append(explanation.save_ranking_png(path, image, box))
    print("\nsaved " + "\n      ".join(map(str, saved)))


def _write(path: str | Path, content: bytes) -> Path:
    replace_file(path, content)
    return Path(path)


def _build_report(explanation: Explanation) -> dict[str, Any]:
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


def _print_report(
    explanation: Explanation,
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


def _build_word_row(explanation: Explanation, span: Span, phrase: PointedPhrase) -> dict[str, Any]:
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
