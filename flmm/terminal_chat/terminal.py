"""Lines in, text out: a terminal or a pipe, its colours, and Ctrl-C while an answer is written.

Knows nothing of conversations.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from flmm.visualization import Color

PROMPT = "> "
# What could move the cursor or change a terminal's state, were a model to write it.
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in [*range(32), *range(127, 160)]
    if chr(code) not in "\n\t"
}
_CUBE = np.array([0, 95, 135, 175, 215, 255])  # levels of the 256 colours' 6 x 6 x 6 cube


@dataclass(frozen=True)
class Terminal:
    """Where lines come from and text goes.

    Attributes:
        read: gives the next line; raises ``EOFError`` at the end of the input and
            ``KeyboardInterrupt`` on Ctrl-C.
        write: shows text at once.
        complain: shows a line about a mistake.
        colors: ``""`` (none), ``"256"`` or ``"24bit"``.
        echo: show the lines that were read, because nobody typed them here.
    """

    read: Callable[[], str]
    write: Callable[[str], object]
    complain: Callable[[str], object]
    colors: str = ""
    echo: bool = False


def open_terminal() -> Terminal:
    """The terminal of this process, or its pipes."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a wrong byte is no reason to end a conversation
            stream.reconfigure(errors="replace")
    is_typed = sys.stdin.isatty()
    if is_typed:
        with suppress(ImportError):  # there is none on Windows
            import readline  # noqa: F401  gives input() its history and editing

    def read() -> str:
        if is_typed:
            return input(PROMPT)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    return Terminal(
        read=read,
        write=lambda text: print(text, end="", flush=True),
        complain=lambda text: print(text, file=sys.stdout if is_typed else sys.stderr, flush=True),
        colors=detect_colors(sys.stdout, os.environ),
        echo=not is_typed,
    )


def detect_colors(stream: TextIO, environ: Mapping[str, str]) -> str:
    """The colours that a stream shows: ``""``, ``"256"`` or ``"24bit"``.

    None where it is no terminal, or NO_COLOR is set.
    """
    if not stream.isatty() or environ.get("NO_COLOR") or environ.get("TERM") in (None, "dumb"):
        return ""
    return "24bit" if environ.get("COLORTERM") in ("truecolor", "24bit") else "256"


@contextmanager
def watch_interrupts() -> Iterator[threading.Event]:
    """Within it Ctrl-C sets an event; pressed again it interrupts, as it does elsewhere.

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


def paint(text: str, color: Color, colors: str) -> str:
    """Text underlined and in a colour; as it is where ``colors`` is empty."""
    if not colors or not text:
        return text
    if colors == "24bit":
        code = f"2;{color[0]};{color[1]};{color[2]}"
    else:
        red, green, blue = (int(np.abs(_CUBE - value).argmin()) for value in color)
        code = f"5;{16 + 36 * red + 6 * green + blue}"
    return f"\x1b[4;38;{code}m{text}\x1b[0m"


def clean_controls(text: str) -> str:
    """Text without characters that command a terminal; newlines and tabs stay."""
    return text.translate(_CONTROLS)


__all__ = [
    "PROMPT",
    "Terminal",
    "clean_controls",
    "detect_colors",
    "open_terminal",
    "paint",
    "watch_interrupts",
]
