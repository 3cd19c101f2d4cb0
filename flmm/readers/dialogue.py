"""A conversation with a frozen reader: every token of it is read once.

Where any token of it looked is told on demand: its rows are fed once more behind the keys and
values that are there, which costs as many rows and no picture. Where layers keep a state, the rows
that stand before them since the last picture, or since the last question, are fed too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flmm.readers.attention import RowReader, build_continuation_mask
from flmm.readers.caches import keep_states, view_cache
from flmm.readers.decoding import write_tokens
from flmm.readers.frozen_model import FrozenModel
from flmm.readers.guard import ConversationLock
from flmm.readers.prefixes import Prefix, gather_grids
from flmm.readers.prompts import Context
from flmm.readers.turns import TurnEncoder
from flmm.records import ImageInput, PhraseAttention, Span


@dataclass(frozen=True, eq=False)
class DialogueImage:
    """A picture of a conversation, and from where to where its image tokens stand there."""

    columns: slice
    image_input: ImageInput


@dataclass
class DialogueTurn:
    """One question and its answer, as token ranges ``[start, end)`` of the conversation.

    Attributes:
        start: first token that the turn added (of the first turn: behind the first picture).
        question: all tokens that were fed, pictures and template included.
        question_tokens: of each token of the question's text its place in the conversation and
            its characters in that text.
        answer: what the reader wrote, without the end of the turn.
        end_reason: ``"end"``, ``"max_new_tokens"``, ``"context"``; ``None`` while it is written.
    """

    start: int
    question: Span
    question_tokens: list[tuple[int, Span]]
    answer: Span
    end_reason: str | None = None


def _exclusive(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method of a dialogue while no other thread works with it."""

    @functools.wraps(method)
    def wrapper(self: Dialogue, *args: Any, **kwargs: Any) -> Any:
        with self.lock:
            return method(self, *args, **kwargs)

    return wrapper


class Dialogue:
    """Questions and answers behind one picture or more.

    Of ``prefix``, read with all layers and whatever prompt, only the part that ends with the
    picture is used, and it serves others afterwards. ``lock`` is held by every method, and by
    :meth:`write` for each token; hold it around several steps that belong together.
    """

    def __init__(self, model: FrozenModel, encoder: TurnEncoder, prefix: Prefix) -> None:
        end = prefix.image_columns.stop
        self._model, self._encoder = model, encoder
        self.lock = ConversationLock(model)
        self.images = [DialogueImage(prefix.image_columns, prefix.image_input)]
        self.turns: list[DialogueTurn] = []
        self.input_ids: list[int] = prefix.input_ids[:end].tolist()
        self._positions: Tensor = prefix.positions[:, :end].cpu()
        self._cache: Any = view_cache(prefix.cache, 0, slice(0, end))
        self._last_hidden_state: Tensor | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def max_tokens(self) -> int:
        """Tokens that the model's context holds."""
        return self._model.max_tokens

    @_exclusive
    def ask(self, question: str, images: Sequence[ImageInput] = ()) -> DialogueTurn:
        """Feed a question in plain text, behind further pictures; :meth:`write` answers.

        Raises:
            ContextFullError: it does not fit; the conversation stays as it was.
            ValueError: the model does not read so many pictures.
        """
        self._check_pictures(len(images))
        start = len(self)
        # The first turn begins with the first picture, which has been read with what precedes it.
        read = [] if self.turns else [self.images[0].image_input]
        offset = 0 if read else start
        turn = self._encoder.encode(question, [*read, *images], is_first=not self.turns)
        ids = turn.input_ids[start - offset :]
        self._context.check("the question", question, len(ids), room=1)
        shown = [
            DialogueImage(slice(offset + columns.start, offset + columns.stop), image)
            for columns, image in zip(turn.image_columns[len(read) :], images)
        ]
        self.images += self._read(ids, shown)
        end = len(self)
        tokens = [(offset + place, span) for place, span in turn.question]
        self.turns.append(DialogueTurn(start, (start, end), tokens, (end, end)))
        return self.turns[-1]

    @_exclusive
    def begin(self, text: str) -> list[int]:
        """Put words into the reader's mouth: its answer begins with them; gives their token ids.

        Raises:
            ContextFullError: they do not fit into the model's context.
        """
        ids, _ = self._encoder.tokenizer.encode_plain(text)
        self._context.check("the beginning of the answer", text, len(ids))
        self._answer(self.turns[-1], ids)
        return ids

    def write(self, max_new_tokens: int = 256) -> Iterator[int]:
        """The reader's own greedy answer to the last question, one token id after the other.

        Stopping half-way leaves the conversation whole: what was written so far is the answer.

        Raises:
            ValueError: nothing was asked, or the conversation went on since the last token.
        """
        if not self.turns:
            raise ValueError("ask a question before the answer is written")
        turn = self.turns[-1]
        steps = write_tokens(self._model, [self.input_ids], self._read_last, max_new_tokens)
        while True:
            with self.lock:
                is_last = bool(self.turns) and self.turns[-1] is turn
                if not is_last or turn.answer[1] != len(self):
                    raise ValueError(
                        "the conversation went on while this answer was being written: ask only "
                        "when an answer is whole, or fork the conversation"
                    )
                token = next(steps)[0]
                if isinstance(token, str):
                    turn.end_reason = token
                    return
                self._answer(turn, [token])
            yield token

    @_exclusive
    def undo(self) -> None:
        """Forget the last question, its pictures and its answer."""
        if not self.turns:
            raise ValueError("there is no turn to undo: the conversation has just begun")
        start = self.turns.pop().start
        self.images = [item for item in self.images if item.columns.stop <= start]
        del self.input_ids[start:]
        self._positions = self._positions[:, :start]
        if self._fed > start:
            self._cache = self._view(start)
        self._last_hidden_state = None

    @_exclusive
    def fork(self) -> Dialogue:
        """The same conversation again; what is asked there is not heard here."""
        other = object.__new__(Dialogue)
        other.__dict__.update(self.__dict__)
        other.lock = ConversationLock(self._model)
        other.images = list(self.images)
        other.turns = [replace(turn) for turn in self.turns]  # an answer may grow there
        other.input_ids = list(self.input_ids)
        other._cache = self._view(self._fed)
        return other

    @_exclusive
    def look(self, spans: Sequence[Span]) -> list[PhraseAttention]:
        """Where tokens of the conversation looked, and what was thought at them.

        Args:
            spans: half-open token ranges, each behind the first picture and within one run of text;
                the rows of a range are merged as those of a phrase.

        Returns:
            per picture the attention of all P ranges, in the order given: all zero where the
            picture came later, features the same for every picture.
        """
        if not spans:
            raise ValueError("no token range is given: pass at least one")
        self._feed_pending()
        parts: dict[int, tuple[list[Tensor], Tensor]] = {}
        for places in self._group_spans(spans):
            parts.update(zip(places, self._look_at([spans[place] for place in places])))
        rows = [parts[index] for index in range(len(spans))]
        features = [feature for _, feature in rows]
        ids = [torch.tensor(self.input_ids[slice(*span)]) for span in spans]
        return [
            PhraseAttention(gather_grids(torch.stack(list(maps)), image.image_input), features, ids)
            for image, maps in zip(self.images, zip(*(maps for maps, _ in rows)))
        ]

    @_exclusive
    def read_hidden_states(self, span: Span) -> Tensor:
        """``[R, D]``: what was thought at each token of a range as :meth:`look` takes it."""
        self._feed_pending()
        cache = self._view(span[0])
        start = cache.get_seq_length()
        return self._decode(cache, start, span[1])[-1][0, span[0] - start :]

    def _check_pictures(self, added: int) -> None:
        limit = self._model.family.max_pictures
        if added and limit is not None and len(self.images) + added > limit:
            raise ValueError(
                f"a {self._model.model.config.model_type!r} model reads {limit} picture in a "
                "conversation: begin a new one for another picture"
            )

    @property
    def _context(self) -> Context:
        way_out = "undo some turns, or start a new conversation"
        return Context(self.max_tokens, len(self), "this conversation", way_out)

    # -- passes through the model ----------------------------------------------------------

    @property
    def _fed(self) -> int:
        """Tokens whose keys and values are there."""
        return int(self._cache.get_seq_length())

    def _append(self, ids: Sequence[int]) -> None:
        """Text tokens, not fed yet: one position each."""
        first = int(self._positions.max()) + 1
        new = torch.arange(first, first + len(ids)).expand(len(self._positions), -1)
        self._positions = torch.cat([self._positions, new], dim=1)
        self.input_ids += ids

    def _answer(self, turn: DialogueTurn, ids: Sequence[int]) -> None:
        self._append(ids)
        turn.answer = (turn.answer[0], len(self))

    def _read(self, ids: list[int], images: list[DialogueImage]) -> list[DialogueImage]:
        """Feed what is pending and a turn; after an error the conversation is as it was.

        Gives the pictures as they were seen.
        """
        tokens, positions, cache = len(self), self._positions, self._cache
        try:
            self._append(ids)
            shown = [*self.images, *images]
            kept = {self._fed, *(item.columns.stop for item in shown)}
            keep_states(cache, kept)
            if images:
                self._positions = self._model.locate(
                    self.input_ids, [item.image_input for item in shown]
                )
                images = self._read_pictures(images, kept)
            self._feed_pending()
        except BaseException:
            del self.input_ids[tokens:]
            self._positions, self._cache = positions, cache
            raise
        return images

    def _read_pictures(self, images: list[DialogueImage], kept: set[int]) -> list[DialogueImage]:
        """Feed all that is pending, or (layers that keep a state) as far as the last picture."""
        pieces = [(len(self), images)]
        if self._model.keeps_states:  # each piece ends where a look may begin
            pieces = [(item.columns.stop, [item]) for item in images]
        seen = []
        for end, shown in pieces:
            cache = self._view(self._fed)
            inputs = [item.image_input for item in shown]
            read, inputs = self._model.read(cache, *self._get_rows(self._fed, end), inputs)
            self._cache, self._last_hidden_state = cache, read[0, -1]
            keep_states(cache, kept)
            seen += [replace(item, image_input=image) for item, image in zip(shown, inputs)]
        return seen

    def _view(self, tokens: int) -> Any:
        """A cache of the first tokens that may grow: a pass that fails half-way is not heard of.

        Of fewer where layers keep a state that is known behind these.
        """
        return view_cache(self._cache, 0, slice(0, tokens))

    def _feed_pending(self) -> None:
        """Feed the tokens at the end whose keys and values are not there yet."""
        fed = self._fed
        if fed < len(self):
            cache = self._view(fed)
            read = self._decode(cache, fed, len(self))[-1][0, -1]
            self._cache, self._last_hidden_state = cache, read

    def _read_last(self, _: Sequence[int]) -> Tensor:
        """``[1, D]`` of the last token."""
        self._feed_pending()
        if self._last_hidden_state is None:  # after undo
            raise ValueError("ask a question before the answer is written")
        return self._last_hidden_state[None]

    def _get_rows(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Token ids ``[1, R]`` and positions ``[axes, 1, R]`` of a range."""
        ids = torch.tensor([self.input_ids[start:end]], device=self._model.device)
        return ids, self._positions[:, None, start:end].to(self._model.device)

    def _decode(
        self, cache: Any, start: int, end: int, row_reader: RowReader | None = None
    ) -> Sequence[Tensor]:
        """Feed a range of text behind what stands before it."""
        model, mask = self._model, None
        if row_reader is not None:
            owners = torch.zeros(1, end - start, dtype=torch.int64, device=model.device)
            before = torch.ones(1, start, dtype=torch.bool, device=model.device)
            mask = build_continuation_mask(owners, before, model.dtype)
        return model.decode(cache, *self._get_rows(start, end), mask, row_reader)

    def _group_spans(self, spans: Sequence[Span]) -> Iterator[list[int]]:
        """Places of the ranges of each run of text between two pictures."""
        starts = [*(item.columns.start for item in self.images), len(self)]
        groups: dict[int, list[int]] = {}
        for place, (start, end) in enumerate(spans):
            run = sum(start >= item.columns.stop for item in self.images)
            if not (run and start < end <= starts[run]):
                raise ValueError(
                    f"tokens {start} to {end} are no text behind the first picture: give ranges "
                    f"within {self.images[0].columns.stop} and {len(self)} that hold no picture"
                )
            groups.setdefault(run, []).append(place)
        yield from groups.values()

    def _look_at(self, spans: Sequence[Span]) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Per range its maps ``[L*A, n]`` on every picture and its features ``[L, T, D]``."""
        cache = self._view(min(start for start, _ in spans))
        first, last = cache.get_seq_length(), max(end for _, end in spans)
        rows = [(start - first, end - first) for start, end in spans]
        visible = [item.columns for item in self.images if item.columns.stop <= first]
        columns = slice(visible[0].start, visible[-1].stop)
        reader = self._model.build_row_reader(
            [self.input_ids[first:last]], [rows], [columns], self._model.num_layers
        )
        layers = self._decode(cache, first, last, reader)
        features = torch.cat([layer.to(self._model.device) for layer in layers])
        later = [item.columns for item in self.images[len(visible) :]]
        for maps, (start, end) in zip(reader.finish()[0], rows):
            own = [
                maps[:, item.start - columns.start :][:, : item.stop - item.start]
                for item in visible
            ]
            own += [maps.new_zeros(len(maps), item.stop - item.start) for item in later]
            yield own, features[:, start:end]
