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

import numpy as np

from flmm.apps.explanation.drawing import draw_ranking, draw_sheet, draw_words
from flmm.apps.explanation.explained_chat import ExplainedChat, TokenChoice
from flmm.apps.explanation.page import build_page
from flmm.apps.explanation.reading import Head
from flmm.apps.explanation.report import build_report, print_report
from flmm.conversation import Chat, PointedPhrase
from flmm.files import replace_file


def explain(chat: Chat, heads: Sequence[Head] | None = None) -> Explanation:
    """Read where every token of a conversation looked, in one pass over each turn's tokens.

    Args:
        chat: with at least one turn; no picture is read again.
        heads: (layer, head) of those whose mean is taken, such as
            ``rank_heads(...).best(8)``; ``None``: all.

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
            path: of the file.
            regions: offered beside the phrases of the turns, such as :meth:`ground` gives.
            words: what the page shows when it is opened; ``None``: how it is used.
        """
        opened = None if words is None else self.resolve(words)
        return _write(path, build_page(self, regions, opened).encode())

    def save_json(self, path: str | Path) -> Path:
        """Write tokens, maps, turns and masks as JSON, see docs/explanation.md."""
        return _write(path, f"{json.dumps(build_report(self), ensure_ascii=False)}\n".encode())

    def save_png(self, path: str | Path, words: Sequence[TokenChoice] | None = None) -> Path:
        """Draw a row for each of ``words``; ``None``: a sheet of all words of the answers."""
        return _write(path, draw_sheet(self) if words is None else draw_words(self, words))

    def save_ranking_png(
        self,
        path: str | Path,
        image: int = 0,
        box: Sequence[float] | np.ndarray | None = None,
        mask: np.ndarray | None = None,
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

    Raises:
        ValueError: a word stands nowhere, or a box is empty or outside.
    """
    spans = [span for word in words for span in explanation.find(word)]
    rankings = [explanation.rank_tokens(image, box=box) for box in boxes]
    phrases = [explanation.ground(span) for span in spans]
    print_report(explanation, list(zip(spans, phrases)), list(zip(boxes, rankings)))
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
