"""A terminal or a pipe: lines in, turns as people read them out, Ctrl-C within an answer.

prompt_toolkit reads what is typed, rich shows text in colours. A phrase has the colour of its place
in the turn everywhere: in the text as in the picture.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
from PIL import Image
from prompt_toolkit import PromptSession
from prompt_toolkit.output import create_output
from rich import box
from rich.color import Color
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table
from rich.text import Text

from flmm.conversation import Chat, ChatTurn, PointedPhrase
from flmm.results import draw_phrases
from flmm.visualization import get_color

PROMPT = "> "
# What could move the cursor or change a terminal's state, were a model to write it.
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in [*range(32), *range(127, 160)]
    if chr(code) not in "\n\t"
}
_PIPE_WIDTH = 10_000  # no line of a table is folded where a program reads it


@dataclass(frozen=True)
class Terminal:
    """Where lines come from and text goes."""

    read: Callable[[], str]  # raises EOFError at the end, KeyboardInterrupt on Ctrl-C
    console: Console
    complaints: Console  # about mistakes
    echo: bool = False  # show the lines that were read, because nobody typed them here

    def write(self, text: str) -> None:
        """Show text as it is, unfolded, its tabs kept."""
        self.console.print(Segments([Segment(text)]), end="")


def open_terminal() -> Terminal:
    """The terminal of this process, or its pipes."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a wrong byte is no reason to end a conversation
            stream.reconfigure(errors="replace")
    console = build_console(sys.stdout)
    read = _read_pipe
    if sys.stdin.isatty():  # the prompt stands there also where the answers go into a file
        output = create_output(always_prefer_tty=True)
        read = PromptSession(PROMPT, output=output, enable_suspend=True).prompt
    if sys.stdin.isatty() and console.is_terminal:
        return Terminal(read, console, console)
    return Terminal(read, console, build_console(sys.stderr), echo=True)


def build_console(stream: TextIO, **options: Any) -> Console:
    """A console that shows text as it is, in the colours of its terminal, in a pipe unfolded."""
    width = None if stream.isatty() else _PIPE_WIDTH
    settings = {"width": width, "soft_wrap": True, "highlight": False} | options
    return Console(file=stream, markup=False, emoji=False, **settings)


def _read_pipe() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


@contextmanager
def watch_interrupts() -> Iterator[threading.Event]:
    """Within it Ctrl-C sets an event; pressed again it interrupts, also where it was ignored.

    In threads other than the main one nothing is watched.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def press(*_: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def clean_controls(text: str) -> str:
    """Text without characters that command a terminal; newlines and tabs stay."""
    return text.translate(_CONTROLS)


def tabulate_phrases(phrases: Sequence[PointedPhrase]) -> Table:
    """A table of phrases, each in its mask's colour; phrases and pictures count from 1."""
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
    """A turn's question or answer, phrases in their masks' colours, of nested ones the shorter."""
    text = Text(clean_controls(turn.question if role == "question" else turn.text))
    own = [(index, item.span) for index, item in enumerate(turn.phrases) if item.role == role]
    for index, (start, end) in sorted(own, key=lambda item: item[1][0] - item[1][1]):
        text.stylize(_get_style(index), start, end)
    return text


def _get_style(index: int) -> Style:
    """Underlined, in the colour of phrase ``index``."""
    return Style(underline=True, color=Color.from_rgb(*get_color(index)))


def draw_turn(image: np.ndarray, phrases: Sequence[PointedPhrase], index: int) -> Image.Image:
    """Picture ``index``, uint8 RGB ``[H, W, 3]``, with the turn's phrases in it by number."""
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
