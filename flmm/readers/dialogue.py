"""A conversation with a frozen reader: every token of it is read once.

In: a picture that was read, then questions (and more pictures). Out: the reader's own greedy
answers, token by token, and where any token of the conversation looked, on demand: its rows are
fed once more behind the keys and values that are there, which costs as many rows and no picture.
Not its duty: which words are worth pointing at, masks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flmm.readers.attention import RowReader
from flmm.readers.context import Context
from flmm.readers.generation import find_stop_ids
from flmm.readers.guard import ConversationLock
from flmm.readers.prefixes import Prefix, gather_grids, view_cache
from flmm.records import ImageInput, PhraseAttention, Span

if TYPE_CHECKING:
    from flmm.readers.base import FrozenVLM


@dataclass(frozen=True, eq=False)
class DialogueImage:
    """A picture of a conversation.

    Attributes:
        columns: the positions of its image tokens within the conversation.
        image_input: the picture.
    """

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

    Args:
        vlm: the frozen reader.
        prefix: the first picture, read with whatever prompt: only the part that ends with the
            picture is used, and it serves others afterwards.

    Attributes:
        lock: held by every method, and by :meth:`write` for each token; hold it around several
            steps that belong together.
    """

    def __init__(self, vlm: FrozenVLM, prefix: Prefix) -> None:
        end = prefix.image_columns.stop
        batch = prefix.batch
        self.vlm = vlm
        self.lock = ConversationLock(vlm)
        self.images = [DialogueImage(prefix.image_columns, prefix.image_input)]
        self.turns: list[DialogueTurn] = []
        self.input_ids: list[int] = prefix.input_ids[:end].tolist()
        self._positions: Tensor = batch.positions[:, prefix.row, batch.spans[prefix.row]][:, :end]
        self._positions = self._positions.cpu()
        self._cache: Any = view_cache(prefix.cache, 0, slice(0, end))
        self._last_hidden_state: Tensor | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def max_tokens(self) -> int:
        """Tokens that the model's context holds."""
        return self.vlm.max_tokens

    @_exclusive
    def ask(self, question: str, images: Sequence[ImageInput] = ()) -> DialogueTurn:
        """Feed a question; :meth:`write` goes on with the answer.

        Args:
            question: plain text of the user turn (control tokens are not obeyed).
            images: further pictures, which stand before the question.

        Raises:
            ContextFullError: the question does not fit into the model's context; the
                conversation stays as it was.
        """
        before = [self.images[0].image_input] if not self.turns else []
        ids, columns, question_tokens = self.vlm._encode_turn(
            question, [*before, *images], is_first=not self.turns
        )
        start = len(self)
        if not self.turns:  # the first picture and what stands before it was read
            ids, columns = ids[start:], columns[1:]
            columns = [slice(item.start - start, item.stop - start) for item in columns]
            question_tokens = [(place - start, span) for place, span in question_tokens]
        self._context.check("the question", question, len(ids), room=1)
        columns = [slice(start + item.start, start + item.stop) for item in columns]
        self._read(ids, columns, images)
        self.images += [DialogueImage(*row) for row in zip(columns, images)]
        end = len(self)
        tokens = [(start + place, span) for place, span in question_tokens]
        self.turns.append(DialogueTurn(start, (start, end), tokens, (end, end)))
        return self.turns[-1]

    @_exclusive
    def begin(self, text: str) -> list[int]:
        """Put words into the reader's mouth: its answer begins with them, and it goes on.

        Args:
            text: plain text.

        Returns:
            its token ids.

        Raises:
            ContextFullError: they do not fit into the model's context.
        """
        ids, _ = self.vlm._plain_text.encode_plain(text)
        self._context.check("the beginning of the answer", text, len(ids))
        self._append(ids)
        turn = self.turns[-1]
        turn.answer = (turn.answer[0], len(self))
        return ids

    def write(self, max_new_tokens: int = 256) -> Iterator[int]:
        """The reader's own greedy answer to the last question, one token id after the other.

        Stopping half-way leaves the conversation whole: what was written so far is the answer.

        Args:
            max_new_tokens: the longest answer.

        Raises:
            ValueError: nothing was asked, or the conversation went on since the last token.
        """
        turn = self.turns[-1]
        for _ in range(max_new_tokens):
            with self.lock:
                token = self._write_token(turn)
            if token is None:
                return
            yield token
        turn.end_reason = "max_new_tokens"

    def _write_token(self, turn: DialogueTurn) -> int | None:
        """One more token of the answer; ``None`` at its end."""
        if not self.turns or self.turns[-1] is not turn or turn.answer[1] != len(self):
            raise ValueError(
                "the conversation went on while this answer was being written: ask only when an "
                "answer is whole, or fork the conversation"
            )
        if len(self) + 1 > self.max_tokens:
            turn.end_reason = "context"
            return None
        token = self._choose_token()
        if token is None:
            turn.end_reason = "end"
            return None
        self._append([token])
        turn.answer = (turn.answer[0], len(self))
        return token

    @_exclusive
    def undo(self) -> None:
        """Forget the last question, its pictures and its answer.

        Raises:
            ValueError: there is none.
        """
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
        other.lock = ConversationLock(self.vlm)
        other.images = list(self.images)
        other.turns = [replace(turn) for turn in self.turns]  # an answer may grow there
        other.input_ids = list(self.input_ids)
        other._cache = self._view(self._fed)
        return other

    @_exclusive
    def look(self, spans: Sequence[Span]) -> list[PhraseAttention]:
        """Where tokens of the conversation looked, and what was thought at them.

        Args:
            spans: half-open token ranges of the conversation, each behind the first picture and
                within one run of text; the rows of a range are merged.

        Returns:
            per picture the attention of all P ranges, in the order given: maps ``[P, L*A, h, w]``
            (all zero where the picture came later), and, the same for every picture, features.
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
            PhraseAttention(
                gather_grids(
                    torch.stack([maps[index] for maps, _ in rows]), image.image_input.grids
                ),
                features,
                ids,
            )
            for index, image in enumerate(self.images)
        ]

    @_exclusive
    def read_hidden_states(self, span: Span) -> Tensor:
        """``[R, D]``: what was thought at each token of a range, after the final norm.

        Args:
            span: half-open token range behind the first picture, within one run of text.
        """
        self._feed_pending()
        start, end = span
        cache = self._view(start)
        return self._decode_text(cache, self.input_ids[start:end], self._positions[:, start:end])

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

    def _read(self, ids: list[int], columns: Sequence[slice], images: Sequence[ImageInput]) -> None:
        """Feed what is pending and a turn; after an error the conversation is as it was."""
        fed, tokens = self._fed, len(self)
        positions = self._positions
        try:
            self._append(ids)
            if images:
                shown = [*(item.image_input for item in self.images), *images]
                self._positions = self.vlm._locate(self.input_ids, shown)
                cache, rows = self._view(fed), self._positions[:, fed:]
                read = self.vlm._read_turn(cache, self.input_ids[fed:], rows, images)
                self._cache, self._last_hidden_state = cache, read
            else:
                self._feed_pending()
        except BaseException:
            del self.input_ids[tokens:]
            self._positions = positions
            raise

    def _view(self, tokens: int) -> Any:
        """A cache of the first tokens that may grow: a pass that fails half-way is not heard of."""
        return view_cache(self._cache, 0, slice(0, tokens))

    def _feed_pending(self) -> None:
        """Feed the tokens at the end whose keys and values are not there yet."""
        fed = self._fed
        if fed < len(self):
            cache, rows = self._view(fed), (self.input_ids[fed:], self._positions[:, fed:])
            read = self._decode_text(cache, *rows)[-1]
            self._cache, self._last_hidden_state = cache, read

    def _decode_text(self, cache: Any, ids: Sequence[int], positions: Tensor) -> Tensor:
        return self.vlm._decode_rows(cache, ids, positions, None)[-1][0]

    def _choose_token(self) -> int | None:
        """The next token of the answer; ``None`` where it ends."""
        self._feed_pending()
        if self._last_hidden_state is None:  # after undo, or after a fork of nothing
            raise ValueError("ask a question before the answer is written")
        vlm = self.vlm
        token = vlm._score_next(self._last_hidden_state, self.input_ids)
        return None if token in find_stop_ids(vlm) else token

    def _group_spans(self, spans: Sequence[Span]) -> Iterator[list[int]]:
        """Places of the ranges of each run of text between two pictures.

        Raises:
            ValueError: a range is empty, reaches outside or into a picture.
        """
        borders = [0, *(item.columns.stop for item in self.images), len(self)]
        starts = [*(item.columns.start for item in self.images), len(self)]
        groups: dict[int, list[int]] = {}
        for place, (start, end) in enumerate(spans):
            run = sum(start >= item.columns.stop for item in self.images)
            if not (run and start < end <= starts[run] and start >= borders[run]):
                raise ValueError(
                    f"tokens {start} to {end} are no text behind the first picture: give ranges "
                    f"within {self.images[0].columns.stop} and {len(self)} that hold no picture"
                )
            groups.setdefault(run, []).append(place)
        yield from groups.values()

    def _look_at(self, spans: Sequence[Span]) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Per range its maps ``[L*A, n]`` on every picture and its features ``[L, T, D]``."""
        vlm = self.vlm
        first, last = min(start for start, _ in spans), max(end for _, end in spans)
        rows = [(start - first, end - first) for start, end in spans]
        visible = [item for item in self.images if item.columns.stop <= first]
        columns = slice(visible[0].columns.start, visible[-1].columns.stop)
        reader = RowReader(
            *([rows], [columns], last - first, vlm.num_layers, vlm.num_heads),
            *(vlm.token_merge, vlm.device),
        )
        cache = self._view(first)
        ids, positions = self.input_ids[first:last], self._positions[:, first:last]
        layers = vlm._decode_rows(cache, ids, positions, reader)
        features = torch.cat([layer.to(vlm.device) for layer in layers])
        maps = reader.finish()[0]
        for number, (start, end) in enumerate(rows):
            own = [self._cut(maps[number], item, columns.start, visible) for item in self.images]
            yield own, features[:, start:end]

    @staticmethod
    def _cut(
        maps: Tensor, image: DialogueImage, first_column: int, visible: Sequence[DialogueImage]
    ) -> Tensor:
        """One picture's part of maps ``[L*A, columns]``."""
        start, stop = image.columns.start, image.columns.stop
        if image not in visible:
            return maps.new_zeros(len(maps), stop - start)
        return maps[:, start - first_column : stop - first_column]


__all__ = ["Dialogue", "DialogueImage", "DialogueTurn"]
