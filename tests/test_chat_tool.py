"""``tools/chat.py`` as a user types into it: without a terminal, through a pipe, through a pty."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from flmm import GroundingInferencer
from flmm.datasets.shape_sentences import render_samples
from flmm.terminal_chat import COMMANDS, ChatSettings, Terminal, TerminalChat
from flmm.terminal_chat.session import make_folder, parse_path
from flmm.terminal_chat.terminal import detect_colors, paint, watch_interrupts
from flmm.visualization import get_color

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
SCENE = "docs/images/scene.png"
PROMPT = "Please give me a description of the image."
RINGS = "Where is [a ring] and [a star]?"


@pytest.fixture(scope="module")
def inferencer():
    return GroundingInferencer(TINY, device="cpu")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    paths = [folder / "one.png", folder / "the other.png"]
    for path, scene in zip(paths, render_samples(2, seed=31)):
        Image.fromarray(scene.image).save(path)
    return paths


class Desk:
    """A conversation whose lines a test gives and whose text it reads."""

    def __init__(self, inferencer, picture, out, colors="", on_write=None, **settings):
        self.lines, self.pieces, self.complaints = [], [], []
        self.on_write = on_write

        def read():
            if not self.lines:
                raise EOFError
            line = self.lines.pop(0)
            if line is KeyboardInterrupt:
                raise line
            return line

        def write(text):
            self.pieces.append(text)
            if self.on_write is not None:
                self.on_write(text)

        terminal = Terminal(read, write, self.complaints.append, colors)
        settings = {"select": ["brackets"], "begin": "a"} | settings
        self.chat = TerminalChat(inferencer, ChatSettings(out, **settings), terminal)
        self.chat.open(picture)

    def say(self, *lines):
        """What is written in reply to some lines, and the complaints."""
        del self.pieces[:], self.complaints[:]
        self.lines += lines
        self.chat.run()
        return "".join(self.pieces), list(self.complaints)

    def dump(self, path):
        self.say(f"/save {path}")
        return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def desk(inferencer, scenes, tmp_path):
    def build(**options):
        return Desk(inferencer, scenes[0], tmp_path / "out", **options)

    return build


def test_the_answer_streams_and_is_the_readers_own(desk, inferencer, scenes):
    talk = desk(begin="")
    text, complaints = talk.say(PROMPT)
    expected = inferencer.describe(str(scenes[0]), PROMPT)
    assert text.startswith(expected + "\n") and not complaints
    assert len(talk.pieces) > 5 and "\x1b" not in text
    assert "put [brackets] around some" in text


def test_a_phrase_has_the_colour_of_its_mask(desk):
    text, _ = desk(colors="24bit").say(RINGS)
    (path,) = re.findall(r"saved (.+\.png)", text)
    drawn = np.array(Image.open(path)).reshape(-1, 3)
    for index, phrase in enumerate(["a ring", "a star"]):
        code = ";".join(map(str, get_color(index)))
        (row,) = [line for line in text.splitlines() if f"\x1b[4;38;2;{code}m" in line]
        assert row.startswith(f"{index + 1}  \x1b[4;38;2;{code}m{phrase}\x1b[0m  ")
        assert (drawn == get_color(index)).all(1).sum() > 20  # the rim of its mask


def test_history_underlines_the_words_that_point(desk):
    talk = desk(colors="256")
    talk.say(RINGS)
    text, _ = talk.say("/history")
    ring, star = (paint(name, get_color(i), "256") for i, name in enumerate(["a ring", "a star"]))
    assert re.fullmatch(r"\x1b\[4;38;5;\d+ma ring\x1b\[0m", ring) and ring[:-10] != star[:-10]
    assert f"1> Where is {ring} and {star}?\na" in text
    assert re.search(r"one\.png, 287 x 287 px\n", text) and " of 2048 tokens" in text


def test_where_phrases_nest_the_shorter_one_shows(desk):
    talk = desk(colors="256")
    talk.say("Is [a star left of [a ring]] there?")
    text, _ = talk.say("/history")
    outer = paint("a star left of ", get_color(0), "256")
    assert outer + paint("a ring", get_color(1), "256") + " there?" in text


def test_a_saved_conversation_holds_what_chat_gives(desk, inferencer, scenes, tmp_path):
    talk = desk()
    talk.say(RINGS, f"/add {scenes[1]}", "Which is [a square]?")
    saved = talk.dump(tmp_path / "new" / "chat.json")
    chat = inferencer.chat(str(scenes[0]), ["brackets"])
    chat.ask(RINGS, begin="a")
    chat.ask("Which is [a square]?", images=[str(scenes[1])], begin="a")
    assert [item["name"] for item in saved["pictures"]] == list(map(str, scenes))
    assert [item["size"] for item in saved["pictures"]] == [
        list(image.original_size) for image in chat.images
    ]
    assert len(saved["turns"]) == 2
    for turn, expected in zip(saved["turns"], chat.turns):
        assert (turn["question"], turn["answer"]) == (expected.question, expected.text)
        assert turn["end_reason"] == "end"
        for record, phrase in zip(turn["phrases"], expected.phrases, strict=True):
            assert record["image"] == phrase.image
            assert (coco_mask.decode(record["segmentation"]).astype(bool) == phrase.mask).all()


def test_every_picture_that_is_pointed_into_is_saved(desk, scenes):
    talk = desk()
    text, _ = talk.say(RINGS, f'/add "{scenes[1]}"', "Which is [a square], [a circle]?")
    rows = re.findall(r"^\d  .+  question +(\d)  ", text, re.M)
    saved = re.findall(r"saved (.+\.png)", text)
    assert saved[0].endswith("one-1/turn_1.png")
    for row in set(rows[2:]):
        name = "turn_2.png" if set(rows[2:]) == {"1"} else f"turn_2_picture_{row}.png"
        assert any(path.endswith(f"one-1/{name}") for path in saved[1:])
    text, _ = talk.say(f"/image {scenes[0]}", RINGS)
    assert "one-2/turn_1.png" in text  # nothing is overwritten


def test_undo_takes_back_first_what_was_added_then_turns(desk, scenes, tmp_path):
    talk = desk()
    talk.say(RINGS, f"/add {scenes[1]}", PROMPT)
    before = talk.dump(tmp_path / "chat.json")
    text, complaints = talk.say(f"/add {scenes[0]}", "/undo")
    assert "picture 3: " in text and "taken back: " in text and not complaints
    assert talk.dump(tmp_path / "chat.json") == before
    text, _ = talk.say("/undo")
    assert f"taken back: {PROMPT}" in text
    after = talk.dump(tmp_path / "chat.json")
    assert after == {"pictures": before["pictures"][:1], "turns": before["turns"][:1]}
    talk.say(f"/add {scenes[1]}", PROMPT)
    assert talk.dump(tmp_path / "chat.json") == before
    assert "no turn to undo" in talk.say("/undo", "/undo", "/undo")[1][0]


MISTAKES = [
    ("the [cup", "is not closed"),
    ("/image nowhere.png", "no image file at 'nowhere.png'"),
    ("/image setup.py", "cannot be read as an image"),
    ("/add nowhere.png", "no image file at 'nowhere.png'"),
    ("/add", "/add needs a PATH"),
    ("/undo now", "/undo stands alone: leave out 'now'"),
    ("/select nouns", "no phrase selector 'nouns'"),
    ("/save setup.py/x.json", "setup.py"),
    ("/paint red", "no command /paint: /help lists them"),
    ("word " * 3000, "undo some turns"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_the_conversation_goes_on(desk, tmp_path, line, message):
    talk = desk()
    talk.say(RINGS)
    before = talk.dump(tmp_path / "chat.json")
    _, complaints = talk.say(line)
    assert len(complaints) == 1 and message in complaints[0] and "\n" not in complaints[0]
    assert "taken back" not in complaints[0]  # there was nothing to take back
    assert talk.chat.mistakes == 1
    assert talk.dump(tmp_path / "chat.json") == before
    assert talk.say(PROMPT)[1] == []


def test_a_picture_that_is_far_too_large_is_a_mistake(desk, scenes, monkeypatch):
    talk = desk()
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        _, complaints = talk.say(f"/image {scenes[1]}")
    assert len(complaints) == 1 and "pixels" in complaints[0]
    assert talk.say(PROMPT)[1] == []


def test_a_full_context_is_told_and_left_by_undo(desk, inferencer, monkeypatch):
    talk = desk()
    talk.say(PROMPT, "Where?")
    second = talk.chat._chat.dialogue.turns[1]
    config = inferencer.model.vlm.text_config
    # Behind the short question there is room for three tokens of an answer.
    monkeypatch.setattr(config, "max_position_embeddings", second.question[1] + 3)
    text, complaints = talk.say("/undo", PROMPT)
    assert "undo some turns, or start a new conversation" in complaints[0]
    text, complaints = talk.say("Where?")
    assert "(cut: the model's context is full" in text and not complaints
    assert talk.say("Where?")[1]
    assert talk.say("/undo", "/undo", PROMPT)[1] == []


def test_an_answer_that_ends_at_once_is_said_to_be_none(desk, inferencer, monkeypatch):
    talk = desk(begin="")
    talk.say(PROMPT)
    first = talk.chat._chat.dialogue.input_ids[talk.chat._chat.dialogue.turns[0].answer[0]]
    config = inferencer.model.vlm.model.generation_config
    monkeypatch.setattr(config, "eos_token_id", [config.eos_token_id, first])
    text, complaints = talk.say("/undo", PROMPT)
    assert "\n(no answer: the reader ended it at once)\n" in text and not complaints


def test_a_mistake_behind_the_answer_takes_the_turn_back(desk, tmp_path):
    class Selector:
        def select(self, answer):
            raise ValueError("no idea\nwhich words")

    talk = desk(select=[Selector()])
    text, complaints = talk.say(PROMPT)
    assert text.endswith(".\n") and complaints == [
        "error: no idea which words; the turn is taken back"
    ]
    assert talk.dump(tmp_path / "chat.json")["turns"] == []
    assert talk.say("/select brackets", PROMPT)[1] == []


def press_at(piece_number, times=1):
    """Presses Ctrl-C while some piece is shown."""
    shown = []

    def press(text):
        shown.append(text)
        if len(shown) == piece_number:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    return press


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(desk, tmp_path):
    talk = desk()
    talk.on_write = press_at(3)
    text, complaints = talk.say(PROMPT.replace("image", "[image]"))
    assert "(stopped)" in text and not complaints and "saved " in text
    (turn,) = talk.dump(tmp_path / "chat.json")["turns"]
    assert turn["answer"] and text.startswith(turn["answer"]) and turn["end_reason"] is None
    assert "." not in turn["answer"]
    assert talk.say(PROMPT)[0].count(".") >= 1
    assert len(talk.dump(tmp_path / "chat.json")["turns"]) == 2


def test_ctrl_c_while_masks_are_made_takes_the_turn_back(desk, inferencer, tmp_path):
    talk = desk(select=["brackets"])
    talk.say(PROMPT)
    before = talk.dump(tmp_path / "chat.json")
    head = inferencer.model.mask_head

    def press_twice(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    hook = head.register_forward_pre_hook(press_twice)
    try:
        text, complaints = talk.say(RINGS)
    finally:
        hook.remove()
    assert complaints == ["interrupted; the turn is taken back"] and text.endswith(".\n")
    assert talk.dump(tmp_path / "chat.json") == before
    assert talk.say(RINGS)[1] == []


def test_ctrl_c_at_the_prompt_and_a_blank_line_change_nothing(desk):
    text, complaints = desk().say(KeyboardInterrupt, "", "   ", "/quit", "never read")
    assert text == "\n(Ctrl-D or /quit leaves)\n" and not complaints


def test_interrupts_are_watched_in_the_main_thread_alone():
    before = signal.getsignal(signal.SIGINT)
    with watch_interrupts() as pressed:
        signal.raise_signal(signal.SIGINT)
        assert pressed.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    found = []

    def enter():
        with watch_interrupts() as pressed:
            found.append(pressed.is_set())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [False]


def test_the_reader_cannot_command_the_terminal(desk):
    talk = desk(begin="a\x1b[2J\x07 big")
    text, _ = talk.say(PROMPT, "/history")
    assert "\x1b" not in text and "\x07" not in text and "a\ufffd[2J\ufffd big" in text


def test_selectors_are_chosen_and_built_once(desk):
    talk = desk()
    assert "words that point: reader\n" in talk.say("/select reader")[0]
    first = list(talk.chat._selectors)
    talk.say(PROMPT)
    assert talk.chat._selectors[0] is first[0]
    text, _ = talk.say("/select brackets, reader", "/select")
    assert text.count("words that point: brackets reader\n") == 2


def test_help_names_every_command(desk):
    text, _ = desk().say("/help")
    assert all(f"/{name}" in text for name in COMMANDS)


def test_colours_only_where_a_terminal_shows_them():
    class Screen(io.StringIO):
        def isatty(self):
            return True

    assert detect_colors(io.StringIO(), {"TERM": "xterm"}) == ""
    assert detect_colors(Screen(), {"TERM": "xterm"}) == "256"
    assert detect_colors(Screen(), {"TERM": "xterm", "COLORTERM": "truecolor"}) == "24bit"
    assert detect_colors(Screen(), {"TERM": "xterm", "NO_COLOR": "1"}) == ""
    assert detect_colors(Screen(), {"TERM": "dumb"}) == "" == detect_colors(Screen(), {})
    assert paint("cup", (255, 0, 95), "256") == "\x1b[4;38;5;197mcup\x1b[0m"
    assert paint("cup", (255, 0, 95), "") == "cup"


def test_paths_as_people_type_them(tmp_path, monkeypatch):
    path = tmp_path / "my cup.png"
    path.touch()
    for text in (str(path), f'"{path}"', f"'{path}'", str(path).replace(" ", "\\ ")):
        assert parse_path(text) == path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_path("~/my cup.png") == path
    assert str(parse_path("it's gone.png")) == "it's gone.png"
    assert make_folder(tmp_path, "cup") != make_folder(tmp_path, "cup")


def test_through_a_pipe(scenes, tmp_path):
    command = [sys.executable, "tools/chat.py", scenes[0], "--device", "cpu", "--out", tmp_path]
    done = subprocess.run(
        [*map(str, command), "--select", "brackets"],
        input=f"{RINGS}\nthe [cup\n/image nowhere.png\n{PROMPT}".encode() + b"\xff\n",
        capture_output=True,
        timeout=120,
    )
    text, errors = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 1, errors  # two mistakes
    assert errors.count("error: ") == 2 and "Traceback" not in errors
    assert "\x1b" not in text
    assert re.search(r"^1  a ring  question +1   0\.\d\d  \d+ \d+ \d+ \d+ +\d+$", text, re.M)
    assert f"> {PROMPT}" in text
    (path,) = re.findall(r"saved (.+\.png)", text)
    assert Image.open(path).size == Image.open(scenes[0]).size


class Typist:
    """A process in a terminal of its own, and what it has shown so far."""

    LAUNCH = "import fcntl, os, sys, termios; os.setsid(); "
    LAUNCH += "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"

    def __init__(self, *arguments):
        self.master, slave = pty.openpty()
        environ = os.environ | {"TERM": "xterm-256color"}
        environ.pop("COLORTERM", None), environ.pop("NO_COLOR", None)
        command = [sys.executable, "-c", self.LAUNCH, sys.executable, *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environ
        )
        os.close(slave)
        self.text = ""

    def type(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, pattern, seconds=60):
        """Text up to a pattern that was not shown before."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.text!r}"
            self.text += os.read(self.master, 4096).decode(errors="replace")
        shown, self.text = self.text[: found.end()], self.text[found.end() :]
        return shown

    def leave(self, seconds=30):
        """The exit code."""
        try:
            while os.read(self.master, 4096):
                pass
        except OSError:  # Linux: nobody holds the other end any more
            pass
        return self.process.wait(seconds)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def test_in_a_terminal_with_ctrl_c_and_ctrl_d(tmp_path):
    # A reader of random weights never ends its answer, so that there is something to stop.
    config = "configs/tiny/tiny_random_reader_unet_sam_shapes.py"
    arguments = ["--config", config, "--checkpoint", "flmm/assets/tiny_grounder.safetensors"]
    arguments += ["--select", "brackets", "--max-new-tokens", "1500", "--device", "cpu"]
    typist = Typist("tools/chat.py", SCENE, "--out", tmp_path, *arguments)
    try:
        typist.wait_for(r"/help\r\n.*> ")
        typist.type("Where is [a ring]?\n")
        typist.wait_for(r"ring\]\?.*\n[^\n]{4,}")  # the answer has begun
        typist.type("\x03")
        shown = typist.wait_for(r"saved \S+turn_1\.png\r\n.*> ")
        assert "(stopped)" in shown and re.search(r"\x1b\[4;38;5;\d+ma ring\x1b\[0m", shown)
        time.sleep(0.5)  # CPython misses a signal between readline's prompt and its waiting
        typist.type("\x03")
        typist.wait_for(r"\(Ctrl-D or /quit leaves\)\r\n.*> ")
        typist.type("the [cup\n")
        typist.wait_for(r"error: .*is not closed.*\n.*> ")
        typist.type("\x1b[A\x1b[A")  # arrow up, twice: what was asked before
        typist.wait_for(r"Where is \[a ring\]\?")
        typist.type("\x15/history\n")
        assert "1> Where is " in typist.wait_for(r"tokens\r\n.*> ")
        typist.type("\x04")
        assert typist.leave() == 0
    finally:
        typist.close()
    assert Image.open(tmp_path / "scene-1/turn_1.png").size == Image.open(SCENE).size
