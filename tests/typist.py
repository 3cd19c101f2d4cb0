"""A person at a terminal: a process, what is typed into it, and what its screen shows."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

import pyte

ROWS, COLUMNS = 100, 140
# The child owns its terminal, and inherits SIGINT ignored, as from a shell that runs a command in
# the background: what must hear Ctrl-C has to hear it all the same.
LAUNCH = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Screen(pyte.Screen):
    """A screen that answers when it is asked where its cursor is, as terminals do.

    ``gone``: rows that have left it at its top.
    """

    def __init__(self, answer):
        super().__init__(COLUMNS, ROWS)
        self.write_process_input = answer
        self.gone = 0

    def index(self):
        self.gone += self.cursor.y == ROWS - 1
        super().index()


class Typist:
    """Runs ``python ARGUMENTS`` in a terminal of its own.

    Text is looked for from the row where the last text was found, so that a pattern which begins
    with a newline finds nothing twice.
    """

    def __init__(self, *arguments, **environ):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        environ = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environ
        environ.pop("NO_COLOR", None)
        command = [sys.executable, "-c", LAUNCH, *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environ
        )
        os.close(slave)
        self.screen = Screen(self.type)
        self._stream = pyte.ByteStream(self.screen)
        self._row = 0

    def type(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, pattern, seconds=120):
        """The new rows of the screen, once the pattern is there."""
        end = time.monotonic() + seconds
        while True:
            first = max(0, self._row - self.screen.gone)
            text = "\n".join(row.rstrip() for row in self.screen.display[first:]).rstrip()
            if found := re.search(pattern, text):
                self._row = self.screen.gone + first + text.count("\n", 0, found.end())
                return text
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready and self._read(), f"no {pattern!r} in {text!r}"

    def get_styles(self, words):
        """The colours of the first place on the screen where some words are underlined."""
        for row, line in enumerate(self.screen.display):
            for found in re.finditer(re.escape(words), line):
                cells = [self.screen.buffer[row][x] for x in range(*found.span())]
                if all(cell.underscore for cell in cells):
                    return {cell.fg for cell in cells}
        return set()

    def leave(self, seconds=60):
        """The exit code."""
        while self._read():
            pass
        return self.process.wait(seconds)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def _read(self):
        try:
            shown = os.read(self.master, 65536)
        except OSError:  # Linux: nobody holds the other end any more
            return False
        self._stream.feed(shown)
        return bool(shown)
