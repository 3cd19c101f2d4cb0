"""Lines in, text out: a terminal or a pipe, and Ctrl-C while an answer is written.

prompt_toolkit reads what is typed, rich shows text in colours. Knows nothing of conversations.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.output import create_output
from rich.console import Console
from rich.segment import Segment, Segments

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
    """A console that shows text as it is; ``options``: of ``rich.console.Console``.

    It has the colours of its terminal, none under NO_COLOR, and is as wide as any table in a pipe.
    """
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
    """Within it Ctrl-C sets an event; pressed again it interrupts.

    So it does where SIGINT was ignored before. In threads other than the main one nothing is
    watched.
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
