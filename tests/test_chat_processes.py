"""``tools/chat.py`` as a user starts it: through a pipe, in a terminal."""

import re

import pytest
from PIL import Image

from flmm.visualization import get_color
from tests.forks import run_fork
from tests.typist import Typist

pytestmark = pytest.mark.process

SCENE = "docs/images/scene.png"
PROMPT = "Please give me a description of the image."
SELECT = ["--select", "brackets"]
PIPED = """
import runpy, sys
sys.stdin = open(sys.argv.pop(1), encoding="utf-8")
runpy.run_path("tools/chat.py", run_name="__main__")
"""
# Its random weights never end an answer, so that there is something to stop.
RANDOM_READER = "configs/tiny/tiny_random_reader_unet_sam_shapes.py"


def test_through_a_pipe(tmp_path):
    lines = tmp_path / "lines"
    text = f"Where is [a ring]?\nthe [cup\n/image nowhere.png\n{PROMPT}"
    lines.write_bytes(text.encode() + b"\xff\n")
    done = run_fork(PIPED, lines, SCENE, "--device", "cpu", "--out", tmp_path, *SELECT)
    text, errors = done.stdout, done.stderr
    assert done.returncode == 1, errors  # two mistakes
    assert errors.count("error: ") == 2 and "Traceback" not in errors
    assert "\x1b" not in text
    assert text.splitlines()[1].startswith("This is the toy embedded in flmm")
    assert re.search(r"^1  a ring  question +1   0\.\d\d  \d+ \d+ \d+ \d+ +\d+$", text, re.M)
    assert f"> {PROMPT}" in text
    (path,) = re.findall(r"saved (.+\.png)", text)
    assert Image.open(path).size == Image.open(SCENE).size


def test_in_a_terminal_with_ctrl_c_and_ctrl_d(tmp_path):
    arguments = ["--config", RANDOM_READER, "--checkpoint", "tiny"]
    arguments += [*SELECT, "--max-new-tokens", "1500", "--device", "cpu"]
    typist = Typist("tools/chat.py", SCENE, "--out", tmp_path, *arguments)
    try:
        typist.wait_for(r"or /help\nThis is the toy .*\n>$")
        typist.type("\x1b[200~Where is\n[a ring]?\x1b[201~\r")  # two lines, pasted
        typist.wait_for(r"ring\]\?\n.{4,}")  # the answer has begun
        typist.type("\x03")
        shown = typist.wait_for(r"saved \S+turn_1\.png\n>$")
        assert "(stopped)" in shown
        color = "{:02x}{:02x}{:02x}".format(*get_color(0))
        assert typist.get_styles("a ring") == {color}
        typist.type("\x03")
        typist.wait_for(r"\n\(Ctrl-D or /quit leaves\)\n>$")
        typist.type("the [cup\r")
        typist.wait_for(r"\nerror: .*is not closed.*\n>$")
        typist.type("\x1b[A\x1b[A")  # arrow up, twice: what was asked before
        typist.wait_for(r"^> Where is\n\[a ring\]\?$")
        typist.type("\x03")
        typist.wait_for(r"\n\(Ctrl-D or /quit leaves\)\n>$")
        typist.type("/history\r")
        assert re.search(r"1> Where is\na ring\?", typist.wait_for(r"tokens\n>$"))
        typist.type("\x04")
        assert typist.leave() == 0
    finally:
        typist.close()
    assert Image.open(tmp_path / "scene-1/turn_1.png").size == Image.open(SCENE).size
