"""Questions and commands, one line each: what is done about them, and what is shown."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.text import Text

from flmm.apps.terminal.terminal import (
    PROMPT,
    Terminal,
    clean_controls,
    describe_chat,
    draw_turn,
    mark_phrases,
    tabulate_phrases,
    watch_interrupts,
)
from flmm.command_line import USER_ERRORS, summarise_error
from flmm.conversation import BRACKETS, Chat
from flmm.files import replace_file
from flmm.images import is_address, load_any_image
from flmm.inferencer import GroundingInferencer
from flmm.selectors import SELECTORS, build_selector
from flmm.toy.shape_sentences import render_samples

# Command -> (argument, what it does).
COMMANDS = {
    "image": ("PATH", "a new conversation about another picture"),
    "add": ("PATH", "a further picture, shown with the next question"),
    "undo": ("", "take back the last turn, or a picture that was added and not asked about"),
    "history": ("", "the conversation so far"),
    "select": ("NAMES", f"which words point: {' '.join([BRACKETS, *SELECTORS])}"),
    "save": ("FILE", "the whole conversation as JSON, masks as COCO RLE"),
    "help": ("", "these lines"),
    "quit": ("", "leave, as Ctrl-D does"),
}
_ERRORS = (*USER_ERRORS, torch.OutOfMemoryError, Image.DecompressionBombError)
_ENDINGS = {
    "max_new_tokens": "(cut at the longest answer: --max-new-tokens)",
    "context": "(cut: the model's context is full; /undo takes a turn back, /image begins anew)",
    None: "(stopped)",
}


@dataclass(frozen=True)
class ChatSettings:
    """How a conversation is held."""

    out: Path  # folder of the pictures; every conversation has one of its own in it
    select: Sequence[str] | None = None  # phrase selectors; None: the inferencer's
    max_new_tokens: int = 256  # of an answer
    begin: str = ""  # words that every answer begins with


class TerminalChat:
    """Answers lines, within one conversation after the other; ``mistakes`` counts bad lines."""

    chat: Chat  # from open() on

    def __init__(
        self, inferencer: GroundingInferencer, settings: ChatSettings, terminal: Terminal
    ) -> None:
        self.inferencer = inferencer
        self.settings = settings
        self.mistakes = 0
        self._terminal = terminal
        # Name and picture, all of the conversation; those the chat has not seen yet wait for the
        # next question.
        self._pictures: list[tuple[str, Image.Image]] = []
        self._folder: Path | None = None
        self._is_answering = False
        self._select(settings.select or inferencer.selectors)

    def open(self, path: str | Path) -> None:
        """Begin a conversation about a picture; after an error the old one goes on."""
        picture = load_any_image(path)
        self.chat = self.inferencer.chat(picture)
        self._pictures = [(str(path), picture)]
        self._folder = None
        self._say(f"{self._describe_picture(0)}. Ask about it, or /help")
        if notice := self.inferencer.model.vlm.notice:
            self._say(notice)

    def open_sample(self, seed: int = 3) -> None:
        """Begin a conversation about a drawn scene, which is saved as ``sample.png``."""
        self.settings.out.mkdir(parents=True, exist_ok=True)
        path = self.settings.out / "sample.png"
        Image.fromarray(render_samples(1, seed)[0].image).save(path)
        self.open(path)

    def run(self) -> None:
        """Answer lines up to ``/quit`` or the end of the input."""
        while True:
            try:
                line = self._terminal.read()
            except EOFError:
                return
            except KeyboardInterrupt:
                self._say("(Ctrl-D or /quit leaves)")
                continue
            if self._terminal.echo:
                self._say(PROMPT + clean_controls(line))
            if line.strip() == "/quit":
                return
            self._answer(line)

    def _answer(self, line: str) -> None:
        """Obey one line; a mistake, or Ctrl-C, is told in one line."""
        try:
            if line.startswith("/"):
                self._obey(line)
            elif line.strip():
                self._ask(line.strip())
        except KeyboardInterrupt:
            self._complain("interrupted")
        except _ERRORS as error:
            self._complain(f"error: {summarise_error(error)}")

    def _ask(self, question: str) -> None:
        chat, settings = self.chat, self.settings
        before = len(chat.turns)
        new = [picture for _, picture in self._pictures[len(chat.images) :]]
        pieces = chat.stream(
            question, new, self._selectors, settings.max_new_tokens, settings.begin
        )
        try:
            with watch_interrupts() as pressed, closing(pieces):
                for piece in pieces:
                    self._is_answering = True
                    self._terminal.write(clean_controls(piece))
                    if pressed.is_set():
                        break
        except KeyboardInterrupt:  # pressed twice
            if len(chat.turns) == before:
                raise
        self._is_answering = False
        self._show_turn()

    def _show_turn(self) -> None:
        """What follows the answer: how it ended, the phrases, where their pictures are."""
        turn = self.chat.turns[-1]
        self._say("")
        if not turn.text:
            self._say("(no answer: the reader ended it at once)")
        elif turn.end_reason != "end":
            self._say(_ENDINGS[turn.end_reason])
        for sentence in turn.notes:
            self._say(f"({sentence})")
        if not turn.phrases:
            self._say("(no words that point: put [brackets] around some, or /select others)")
            return
        self._terminal.console.print(tabulate_phrases(turn.phrases))
        if self._folder is None:
            self._folder = make_folder(self.settings.out, Path(self._pictures[0][0]).stem)
        shown = sorted({phrase.image for phrase in turn.phrases})
        for index in shown:
            which = "" if shown == [0] else f"_picture_{index + 1}"
            path = self._folder / f"turn_{len(self.chat.turns)}{which}.png"
            draw_turn(self.chat.images[index].image, turn.phrases, index).save(path)
            self._say(f"saved {path}")

    def _obey(self, line: str) -> None:
        command, *rest = line.split(maxsplit=1)
        name, argument = command[1:], " ".join(rest).strip()
        if name not in COMMANDS:
            raise ValueError(f"there is no command /{name}: /help lists them")
        wanted = COMMANDS[name][0]
        if argument and not wanted:
            raise ValueError(f"/{name} stands alone: leave out {argument!r}")
        if not argument and wanted in ("PATH", "FILE"):
            raise ValueError(f"/{name} needs a {wanted}: /{name} {wanted}")
        getattr(self, f"_obey_{name}")(*([argument] if wanted else []))

    def _obey_image(self, argument: str) -> None:
        self.open(argument if is_address(argument) else parse_path(argument))

    def _obey_add(self, argument: str) -> None:
        path = argument if is_address(argument) else parse_path(argument)
        self._pictures.append((str(path), load_any_image(path)))
        self._say(
            self._describe_picture(len(self._pictures) - 1) + ", shown with your next question"
        )

    def _obey_undo(self) -> None:
        if len(self._pictures) > len(self.chat.images):
            self._say(f"taken back: {self._pictures.pop()[0]}")
            return
        turn = self.chat.undo()
        del self._pictures[len(self.chat.images) :]
        self._say(f"taken back: {clean_controls(turn.question)}")

    def _obey_select(self, argument: str) -> None:
        if argument:
            self._select(argument.replace(",", " ").split())
        self._say(f"words that point: {' '.join(self._selector_names)}")

    def _select(self, names: Sequence[Any]) -> None:
        """Build selectors once, so that no turn loads a model of theirs again."""
        model = self.inferencer.model
        self._selectors = [
            item if item == BRACKETS else build_selector(item, model) for item in names
        ]
        self._selector_names = [_name_selector(item) for item in names]

    def _obey_history(self) -> None:
        for place in range(len(self._pictures)):
            self._say(self._describe_picture(place))
        for number, turn in enumerate(self.chat.turns, start=1):
            question = Text(f"{number}{PROMPT}") + mark_phrases(turn, "question")
            self._terminal.console.print(question)
            self._terminal.console.print(mark_phrases(turn, "answer"))
        self._say(f"{len(self.chat.dialogue)} of {self.chat.dialogue.max_tokens} tokens")

    def _obey_save(self, argument: str) -> None:
        path = parse_path(argument)
        described = describe_chat(self.chat, [name for name, _ in self._pictures])
        text = json.dumps(described, indent=2, ensure_ascii=False)
        replace_file(path, f"{text}\n".encode())
        self._say(f"saved {path}")

    def _obey_help(self) -> None:
        self._say("A question, with [brackets] around words that are to point; or a command:")
        for name, (argument, duty) in COMMANDS.items():
            self._say(f"  {f'/{name} {argument}':<15} {duty}")
        self._say("Ctrl-C stops an answer and keeps what was said; again, it takes the turn back.")

    def _say(self, line: str) -> None:
        self._terminal.write(line + "\n")

    def _complain(self, message: str) -> None:
        self.mistakes += 1
        if self._is_answering:
            self._is_answering = False
            self._say("")
            message += "; the turn is taken back"
        self._terminal.complaints.print(" ".join(clean_controls(message).split()))

    def _describe_picture(self, index: int) -> str:
        name, picture = self._pictures[index]
        size = f"{picture.width} x {picture.height} px"
        return f"picture {index + 1}: {clean_controls(name)}, {size}"


def parse_path(text: str) -> Path:
    """A path as people type or drop it: with blanks as it is, in quotes, or with escapes."""
    path = Path(text).expanduser()
    if path.exists():
        return path
    try:
        parts = shlex.split(text)
    except ValueError:  # an odd quote is a part of the name
        parts = []
    return Path(parts[0]).expanduser() if len(parts) == 1 else path


def make_folder(out: Path, name: str) -> Path:
    """A new folder ``<out>/<name>-<number>``, with the lowest number that is free."""
    for number in itertools.count(1):
        with suppress(FileExistsError):
            (out / f"{name}-{number}").mkdir(parents=True)
            break
    return out / f"{name}-{number}"


def _name_selector(selector: Any) -> str:
    name = selector.get("type") if isinstance(selector, dict) else selector
    return name if isinstance(name, str) else type(selector).__name__
