"""Where the tokens of a conversation looked, and which of them look at a region.

The maps are the reader's own attention; nothing is learned here, and no file is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flmm.apps.explanation.reading import (
    RankedToken,
    RegionBox,
    RegionMask,
    compute_region_coverage,
    rank_maps,
    read_merged_maps,
)
from flmm.apps.explanation.tokens import ExplainedToken, find_text, join_text, list_tokens
from flmm.conversation import Chat, PointedPhrase
from flmm.geometry import merge_grids
from flmm.head_choice import Head
from flmm.records import Span

# A token by its index, a half-open range of them, a token, or words that stand in the text once.
TokenChoice = int | Span | ExplainedToken | str


class ExplainedChat:
    """Where the tokens of a conversation looked.

    Maps and rankings stay what they were when the chat goes on; :meth:`head_maps` and
    :meth:`ground` ask the chat again and need the turns to be still there.

    Attributes:
        tokens: the T tokens of all questions and answers.
        images: uint8 RGB ``[H, W, 3]``, the pictures as given.
        maps: per picture float32 ``[T, h, w]``: attention of each token on each grid cell, of all
            it has, mean over the merged heads; zero where the picture came later.
        heads: (layer, head) of the merged heads; ``None``: all.
        notice: what people must know beside the answers, see ``FrozenVLM.notice``.
    """

    def __init__(self, chat: Chat, heads: Sequence[Head] | None) -> None:
        self._chat = chat
        self._input_ids = list(chat.dialogue.input_ids)
        self._columns = [item.columns for item in chat.dialogue.images]
        self.turns = list(chat.turns)
        self.tokens: list[ExplainedToken] = list_tokens(self.turns)
        self.images = [item.image for item in chat.images]
        self.heads = None if heads is None else [(layer, head) for layer, head in heads]
        self.num_heads = chat.grounder.vlm.num_maps
        self.notice = chat.grounder.vlm.notice
        self.maps: list[np.ndarray] = read_merged_maps(chat, self.tokens, heads)

    def describe_heads(self) -> str:
        """Which heads were merged, in words."""
        if self.heads is None:
            return f"mean of all {self.num_heads} heads"
        names = ", ".join(f"{layer}.{head}" for layer, head in self.heads)
        return f"mean of {len(self.heads)} of {self.num_heads} heads (layer.head {names})"

    def find(self, text: str, turn: int | None = None, role: str | None = None) -> list[Span]:
        """Every place where words stand, as index ranges in ``tokens``; whole words, any case.

        Only in one ``turn`` (from 0) or ``role`` where it is given. Nowhere is a ValueError.
        """
        if not text.strip():
            raise ValueError(f"the words to find are {text!r}: give at least one letter")
        found = find_text(self.turns, self.tokens, text, turn, role)
        if not found:
            said = " / ".join(item.text for item in self.turns)
            raise ValueError(f"{text!r} stands nowhere in this conversation; the answers: {said}")
        return found

    def resolve(self, choice: TokenChoice) -> Span:
        """The index range of a token, a range of them, or words that stand in the text once.

        Raises:
            ValueError: there are no such tokens, or the words stand there several times, or the
                range is of more than one question or answer, or before the first picture.
        """
        if isinstance(choice, str):
            found = self.find(choice)
            if len(found) > 1:
                raise ValueError(
                    f"{choice!r} stands in this conversation {len(found)} times, at the tokens "
                    f"{found}: give one of these ranges"
                )
            start, end = found[0]
        elif isinstance(choice, ExplainedToken):
            if choice not in self.tokens:
                raise ValueError(f"{choice} is no token of this conversation: see tokens")
            start = self.tokens.index(choice)
            end = start + 1
        elif isinstance(choice, (int, np.integer)):
            start, end = int(choice), int(choice) + 1
        else:
            start, end = choice
        self._check_range(start, end)
        return start, end

    def token_maps(self, choice: TokenChoice) -> list[np.ndarray]:
        """Where a token, a range of them or words look, mean over the merged heads and the tokens.

        Per picture float32 ``[h, w]``; zero where the picture came later.
        """
        start, end = self.resolve(choice)
        return [maps[start:end].mean(0) for maps in self.maps]

    def head_maps(self, choice: TokenChoice) -> list[np.ndarray]:
        """As :meth:`token_maps`, of all heads: per picture float32 ``[L*A, h, w]``.

        The tokens of a range are merged the reader's way (``token_merge``).
        """
        with self._chat.lock:
            seen = self._chat.look([self._find_places(choice)])
        return [
            merge_grids([maps[0] for maps in item.grid_maps], image).cpu().numpy()
            for item, image in zip(seen, self._chat.images)
        ]

    def ground(self, choice: TokenChoice, image: int | None = None) -> PointedPhrase:
        """The mask of a token, a range of them or words, in the picture that they look at most.

        Raises:
            ValueError: as :meth:`resolve`; or there is no such ``image``, or it came later.
        """
        start, end = self.resolve(choice)
        if image is None:
            image = self.choose_image((start, end))
        self._check_image(image)
        if self.tokens[start].place < self._columns[image].stop:
            raise ValueError(
                f"token {start} ({self.tokens[start].text!r}) was said before picture {image} was "
                "shown: choose an earlier picture or a later token"
            )
        words = join_text(self.tokens[start:end])
        with self._chat.lock:
            seen = self._chat.look([self._find_places((start, end))])[image]
            (found,) = self._chat.ground(seen, image, [words])
        span = self.tokens[start].span[0], self.tokens[end - 1].span[1]
        role = self.tokens[start].role
        return PointedPhrase.from_phrase(found, span, role, image)

    def choose_image(self, choice: TokenChoice) -> int:
        """The picture that tokens look at most."""
        return int(np.argmax([own.sum() for own in self.token_maps(choice)]))

    def rank_tokens(
        self,
        image: int = 0,
        box: RegionBox = None,
        mask: RegionMask = None,
        role: str | None = None,
    ) -> list[RankedToken]:
        """Which tokens look at a region, most of all first; see :mod:`.reading`.

        Args:
            image: which picture, from 0; tokens that cannot see it are left out.
            box: xyxy in pixels of the picture as given; what reaches outside is cut off.
            mask: bool ``[H, W]`` of the picture as given, instead of a box.
            role: only tokens of questions or of answers; ``None``: both.

        Raises:
            TypeError: the mask is not bool.
            ValueError: there is no such picture; the region is empty, outside or of another size.
        """
        self._check_image(image)
        coverage = self.compute_coverage(image, box, mask)
        ranked = rank_maps(self.tokens, self.maps[image], coverage)
        return [item for item in ranked if role in (None, item.token.role)]

    def compute_coverage(
        self, image: int, box: RegionBox = None, mask: RegionMask = None
    ) -> np.ndarray:
        """Share of each grid cell of a picture that a region covers, float64 ``[h, w]``."""
        height, width = self.images[image].shape[:2]
        rows, columns = self.maps[image].shape[1:]
        return compute_region_coverage((height, width), (rows, columns), box, mask)

    def _find_places(self, choice: TokenChoice) -> Span:
        """Token range of the conversation; an error where the chat has forgotten these turns."""
        start, end = self.resolve(choice)
        if self._chat.dialogue.input_ids[: len(self._input_ids)] != self._input_ids:
            raise ValueError(
                "turns of this conversation were taken back since it was explained: explain it "
                "again"
            )
        return self.tokens[start].place, self.tokens[end - 1].place + 1

    def _check_range(self, start: int, end: int) -> None:
        if not 0 <= start < end <= len(self.tokens):
            raise ValueError(
                f"there are no tokens {start} to {end}: this conversation has {len(self.tokens)}, "
                "give an index from 0 or a half-open range of them"
            )
        first, last = self.tokens[start], self.tokens[end - 1]
        if (first.turn, first.role) != (last.turn, last.role):
            raise ValueError(
                f"the tokens {start} to {end} run from the {first.role} of turn {first.turn} into "
                f"the {last.role} of turn {last.turn}: give a range within one of them"
            )
        if first.place < self._columns[0].stop:
            raise ValueError(
                f"token {start} ({first.text!r}) stands before the first picture and cannot look "
                "at any: choose one behind it"
            )

    def _check_image(self, image: Any) -> None:
        if not (isinstance(image, (int, np.integer)) and 0 <= image < len(self.images)):
            raise ValueError(
                f"there is no picture {image}: this conversation has {len(self.images)}, counted "
                "from 0"
            )
