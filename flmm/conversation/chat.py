"""A conversation whose words point at pixels.

    chat = inferencer.chat("photo.jpg")
    turn = chat.ask("What is in the picture?")
    turn.text  # the frozen model's own answer, as without flmm
    turn.phrases  # its words with a mask each

The answer is the reader's (its dialogue's), the choice of words the selectors', the masks the
grounder's. Every picture and every token is read once; masks come from the rows of the words that
were said.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch

from flmm.conversation.turns import ChatTurn, PointedPhrase, TextDecoder, TurnToken, find_places
from flmm.grounder import Grounder, ground_parts
from flmm.masks import ImageEncoding
from flmm.readers import Prefix
from flmm.readers.dialogue import Dialogue
from flmm.readers.guard import ConversationLock
from flmm.readers.prompts import ContextFullError
from flmm.records import ImageInput, PhraseAttention, Span
from flmm.results import GroundingResult, ResultPicture, collect_result
from flmm.selectors import Answer, PhraseSelector, build_selector, parse_brackets

BRACKETS = "brackets"


class Chat:
    """A conversation about pictures.

    Threads that share one take turns: :meth:`ask` holds :attr:`lock` until its answer is whole, a
    stream only for each piece.

    Args:
        prefix: the first picture, read.
        encoding: the refiner's of it, if there is one already.
        selectors: which words of a turn are pointed at, see ``flmm.selectors.build_selector``;
            ``"brackets"`` are those that the question marks: ``is [the red cup] full?``.
    """

    def __init__(
        self,
        grounder: Grounder,
        prefix: Prefix,
        encoding: ImageEncoding | None = None,
        selectors: Sequence[Any] = (BRACKETS,),
    ) -> None:
        self.grounder = grounder
        self.turns: list[ChatTurn] = []
        self.dialogue: Dialogue = grounder.vlm.converse(prefix)
        self._prefix = prefix
        self._encodings: dict[int, ImageEncoding | None] = {} if encoding is None else {0: encoding}
        self._selectors = list(selectors)
        self._notes: list[str] = []  # of the turn in progress
        # The answer that is being written.
        self._open: weakref.ref[Generator[str, None, None]] | None = None

    @property
    def lock(self) -> ConversationLock:
        """Hold it around several steps that belong together."""
        return self.dialogue.lock

    @property
    def images(self) -> list[ImageInput]:
        """The pictures of the conversation."""
        return [item.image_input for item in self.dialogue.images]

    def ask(
        self,
        question: str,
        images: Sequence[Any] = (),
        select: Sequence[Any] | None = None,
        max_new_tokens: int = 256,
        on_text: Callable[[str], None] | None = None,
        begin: str = "",
    ) -> ChatTurn:
        """One turn.

        Args:
            question: plain text; the reader does not see the brackets of ``"brackets"``.
            images: further pictures, shown before the question.
            select: selectors of this turn; ``None``: the conversation's.
            on_text: called with each new piece of the answer.
            begin: words that the answer begins with, whatever the reader would have said.

        Raises:
            TypeError, FileNotFoundError, ValueError: the question or a picture cannot be read, or
                the context is full; the conversation stays as it was.
        """
        with self.lock:
            pieces = self.stream(question, images, select, max_new_tokens, begin)
            place = len(self.turns)  # not always the last: on_text may ask something else
            for piece in pieces:
                if on_text is not None:
                    on_text(piece)
            return self.turns[place]

    def stream(
        self,
        question: str,
        images: Sequence[Any] = (),
        select: Sequence[Any] | None = None,
        max_new_tokens: int = 256,
        begin: str = "",
    ) -> Generator[str, None, None]:
        """As :meth:`ask`, the answer token by token; the turn is the last of ``turns`` then.

        A piece is empty where a token adds no text. A caller that stops half-way (``close()``, a
        further question, :meth:`undo`) keeps the answer so far as a turn.
        """
        with self.lock:
            self._end_stream()
            pieces = self._stream(question, images, select, max_new_tokens, begin)
            self._open = weakref.ref(pieces)
        return self._take_steps(pieces)

    def _take_steps(self, pieces: Generator[str, None, None]) -> Generator[str, None, None]:
        """Each piece is made while no other thread uses the conversation."""
        try:
            while True:
                with self.lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece
        finally:
            if inspect.getgeneratorstate(pieces) != inspect.GEN_CLOSED:
                with self.lock:
                    pieces.close()

    def _end_stream(self) -> None:
        """Two answers cannot be written at once: the one that was begun is a turn as it is."""
        pieces = None if self._open is None else self._open()
        if pieces is not None:
            pieces.close()
        # Of a stream that Python threw away while the conversation was in use.
        while len(self.dialogue.turns) > len(self.turns):
            self._forget_turn()

    def _stream(
        self,
        question: str,
        images: Sequence[Any],
        select: Sequence[Any] | None,
        max_new_tokens: int,
        begin: str,
    ) -> Generator[str, None, None]:
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"the question is {question!r}: give at least one word")
        chosen = self._selectors if select is None else list(select)
        marked: list[Span] = []
        if BRACKETS in chosen:
            question, marked = parse_brackets(question)
        selectors = [build_selector(item, self.grounder) for item in chosen if item != BRACKETS]
        encode = self.grounder.vlm.image_processor.encode
        self.dialogue.ask(question, [encode(image) for image in images])
        decoder = TextDecoder(self.grounder.vlm.tokenizer)
        stopped = False
        try:
            # The beginning is one piece: the reader has all of it, wherever a caller stops.
            begun = [decoder.add(token) for token in self.dialogue.begin(begin)]
            if begun:
                yield "".join(begun)
            for token in self.dialogue.write(max_new_tokens):
                yield decoder.add(token)
        except GeneratorExit:
            stopped = True
        except BaseException:
            self._forget_turn()
            raise
        rest = decoder.finish()
        with self.lock:
            try:
                turn = self._finish(question, marked, decoder, selectors)
            except BaseException:
                self._forget_turn()
                raise
            self.turns.append(turn)
        if rest and not stopped:
            yield rest

    def undo(self) -> ChatTurn:
        """Take back the last turn, with the pictures it showed."""
        with self.lock:
            self._end_stream()
            self._forget_turn()
            return self.turns.pop()

    def _forget_turn(self) -> None:
        """The dialogue's last turn, and what the refiner saw of the pictures it showed."""
        self.dialogue.undo()
        for index in [index for index in self._encodings if index >= len(self.images)]:
            del self._encodings[index]

    def look(self, spans: Sequence[Span]) -> list[PhraseAttention]:
        """Per picture where tokens of the conversation looked, see ``Dialogue.look``."""
        return self.dialogue.look(spans)

    @torch.inference_mode()
    def ground(
        self, seen: PhraseAttention, image: int, texts: Sequence[str] = ("",)
    ) -> GroundingResult:
        """Masks of P phrases in a picture: ``seen`` is that picture's entry of :meth:`look`.

        A grounder that points by boxes asks for them by ``texts``, apart from the conversation.
        """
        picture, boxes = self.images[image], None
        if self.grounder.uses_boxes:
            prefix = self._prefix if image == 0 else self.grounder.vlm.prefill(picture)
            boxes = self.grounder.find_boxes(prefix, texts)
        outputs = ground_parts(self.grounder, picture, seen, self._encode(image), boxes)
        return collect_result(texts, outputs, ResultPicture(picture.image))

    def _encode(self, image: int) -> ImageEncoding | None:
        """What the refiner sees of a picture; computed once."""
        if image not in self._encodings:
            (self._encodings[image],) = self.grounder.encode_images([self.images[image]])
        return self._encodings[image]

    def _finish(
        self,
        question: str,
        marked: list[Span],
        said: TextDecoder,
        selectors: Sequence[PhraseSelector],
    ) -> ChatTurn:
        """The turn that has been said: its tokens, the selectors' choice, masks."""
        turn, text = self.dialogue.turns[-1], said.text
        places = {
            "question": turn.question_tokens,
            "answer": list(enumerate(said.offsets, start=turn.answer[0])),
        }
        texts = {"question": question, "answer": text}
        tokens = [
            TurnToken(place, span, texts[role][slice(*span)], role)
            for role, own in places.items()
            for place, span in own
        ]
        self._notes = []
        hidden_states = functools.partial(self.dialogue.read_hidden_states, turn.answer)
        answer = Answer(text, said.offsets, hidden_states, self._ask_aside)
        chosen = {span for selector in selectors if text for span in selector.select(answer)}
        wanted = [("question", span) for span in sorted(set(marked))]
        wanted += [("answer", span) for span in sorted(chosen)]
        phrases = self._point(wanted, tokens, texts)
        return ChatTurn(question, text, phrases, tokens, turn.end_reason, self._notes)

    def _ask_aside(self, question: str) -> str:
        """The reader's reply to a question that is forgotten; empty where there is no room."""
        aside = self.dialogue.fork()
        try:
            aside.ask(question)
        except ContextFullError:
            self._notes.append(
                "the model's context has no room to ask which objects the answer names: undo some "
                "turns, or choose another selector"
            )
            return ""
        ids = list(aside.write())
        return self.grounder.vlm.tokenizer.decode(ids, skip_special_tokens=True)

    def _point(
        self,
        wanted: Sequence[tuple[str, Span]],
        tokens: Sequence[TurnToken],
        texts: dict[str, str],
    ) -> list[PointedPhrase]:
        """Masks of character ranges, each in the picture that its words look at most."""
        found = [(find_places(tokens, role, span), role, span) for role, span in wanted]
        pointed = [(place, role, span) for place, role, span in found if place is not None]
        if not pointed:
            return []
        seen = self.look([place for place, _, _ in pointed])
        # [images, P]: the attention on each picture, mean over layers and heads.
        sums = [[maps.sum((-1, -2)).mean(1) for maps in item.grid_maps] for item in seen]
        owners = torch.stack([torch.stack(own).sum(0) for own in sums]).argmax(0)
        phrases: dict[int, PointedPhrase] = {}
        for image in owners.unique().tolist():
            rows = torch.nonzero(owners == image)[:, 0].tolist()
            part = PhraseAttention(
                [maps[rows] for maps in seen[image].grid_maps],
                [seen[image].text_features[row] for row in rows],
                [seen[image].input_ids[row] for row in rows],
            )
            places = [pointed[row][1:] for row in rows]
            words = [texts[role][slice(*span)] for role, span in places]
            for row, (role, span), item in zip(rows, places, self.ground(part, image, words)):
                phrases[row] = PointedPhrase.from_phrase(item, span, role, image)
        return [phrases[row] for row in range(len(pointed))]
