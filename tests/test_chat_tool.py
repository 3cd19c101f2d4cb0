"""What a conversation in a terminal shows, in this process; processes: test_chat_processes.py."""

import io
import json
import re
import signal
import threading

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from rich.text import Text

from flmm import GroundingInferencer
from flmm.apps.terminal import COMMANDS, ChatSettings, Terminal, TerminalChat
from flmm.apps.terminal.session import make_folder, parse_path
from flmm.apps.terminal.terminal import build_console, clean_controls, watch_interrupts
from flmm.toy.shape_sentences import render_samples
from flmm.visualization import get_color

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
PROMPT = "Please give me a description of the image."
NAMES = ("a ring", "a star")
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


class Paper(io.StringIO):
    """Keeps what is written on it, counts the pieces, and calls ``on_write`` with every one."""

    pieces, on_write = 0, None

    def write(self, text):
        self.pieces += 1
        if self.on_write is not None:
            self.on_write(text)
        return super().write(text)


class Desk:
    """A conversation whose lines a test gives and whose text it reads."""

    def __init__(self, inferencer, picture, out, colors=None, **settings):
        self.lines, self.paper, self.complaints = [], Paper(), io.StringIO()

        def read():
            if not self.lines:
                raise EOFError
            line = self.lines.pop(0)
            if line is KeyboardInterrupt:
                raise line
            return line

        options = {"color_system": colors, "force_terminal": colors is not None}
        console = build_console(self.paper, **options)
        terminal = Terminal(read, console, build_console(self.complaints))
        settings = {"select": ["brackets"], "begin": "a"} | settings
        self.chat = TerminalChat(inferencer, ChatSettings(out, **settings), terminal)
        self.chat.open(picture)

    def say(self, *lines):
        """What is written in reply to some lines, and the complaints."""
        for stream in (self.paper, self.complaints):
            stream.seek(0), stream.truncate()
        self.lines += lines
        self.chat.run()
        return self.paper.getvalue(), self.complaints.getvalue().splitlines()

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
    assert talk.paper.pieces > 5 and "\x1b" not in text
    assert "put [brackets] around some" in text


def test_a_phrase_has_the_colour_of_its_mask(desk):
    text, _ = desk(colors="truecolor").say(RINGS)
    (path,) = re.findall(r"saved (.+\.png)", text)
    drawn = np.array(Image.open(path)).reshape(-1, 3)
    for index, phrase in enumerate(NAMES):
        code = ";".join(map(str, get_color(index)))
        (row,) = [line for line in text.splitlines() if f"\x1b[4;38;2;{code}m" in line]
        assert row.startswith(f"{index + 1}  \x1b[4;38;2;{code}m{phrase}\x1b[0m  ")
        assert (drawn == get_color(index)).all(1).sum() > 20  # the rim of its mask


def test_history_underlines_the_words_that_point(desk):
    talk = desk(colors="truecolor")
    talk.say(RINGS)
    text, _ = talk.say("/history")
    colors = (";".join(map(str, get_color(index))) for index in range(2))
    ring, star = (f"\x1b[4;38;2;{c}m{name}\x1b[0m" for c, name in zip(colors, NAMES))
    assert f"1> Where is {ring} and {star}?\na" in text
    assert re.search(r"one\.png, 287 x 287 px\n", text) and " of 2048 tokens" in text


def test_where_phrases_nest_the_shorter_one_shows(desk):
    talk = desk(colors="truecolor")
    talk.say("Is [a star left of [a ring]] there?")
    text, _ = talk.say("/history")
    outer, inner = (";".join(map(str, get_color(index))) for index in range(2))
    words = f"\x1b[4;38;2;{outer}ma star left of \x1b[0m\x1b[4;38;2;{inner}ma ring\x1b[0m there?"
    assert words in text


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
    ("/image setup.py", "image setup.py cannot be read"),
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
    second = talk.chat.chat.dialogue.turns[1]
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
    first = talk.chat.chat.dialogue.input_ids[talk.chat.chat.dialogue.turns[0].answer[0]]
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
    talk.paper.on_write = press_at(3)
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
    assert text == "(Ctrl-D or /quit leaves)\n" and not complaints


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


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "green", "expected"),  # rich keeps a style's codes: a colour for each
    [
        (io.StringIO, {"TERM": "xterm-256color"}, 1, "cup"),
        (Screen, {"TERM": "xterm-256color"}, 2, "\x1b[4;38;5;197mcup\x1b[0m"),
        (Screen, {"COLORTERM": "truecolor"}, 3, "\x1b[4;38;2;255;3;95mcup\x1b[0m"),
        (Screen, {"TERM": "xterm-256color", "NO_COLOR": "1"}, 4, "\x1b[4mcup\x1b[0m"),
        (Screen, {"TERM": "dumb"}, 5, "cup"),
    ],
)
def test_colours_only_where_a_terminal_shows_them(monkeypatch, stream, environ, green, expected):
    for name in ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    paper = stream()
    build_console(paper).print(Text("cup", f"underline rgb(255,{green},95)"), end="")
    assert paper.getvalue() == expected


def test_an_answer_is_written_as_it_is():
    pieces = ["a\tb ", " \n", "[bold]x[/] :smile: 3.14", "w" * 300, "\n\n", "漢字  ", "\ufffd"]
    for paper in (io.StringIO(), Screen()):
        console = build_console(paper, width=20)
        for piece in pieces:
            Terminal(input, console, console).write(piece)
        assert paper.getvalue() == "".join(pieces)
    assert clean_controls("a\x1b[2J\r\x9b\n\t") == "a\ufffd[2J\ufffd\ufffd\n\t"


def test_a_table_in_a_pipe_is_never_folded(desk):
    text, _ = desk().say(f"Where is [a ring {'and a ring ' * 30}]?")
    assert re.search(r"^1  a ring (and a ring ){29}and a ring +question +1 ", text, re.M)


def test_paths_as_people_type_them(tmp_path, monkeypatch):
    path = tmp_path / "my cup.png"
    path.touch()
    for text in (str(path), f'"{path}"', f"'{path}'", str(path).replace(" ", "\\ ")):
        assert parse_path(text) == path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_path("~/my cup.png") == path
    assert str(parse_path("it's gone.png")) == "it's gone.png"
    assert make_folder(tmp_path, "cup") != make_folder(tmp_path, "cup")
