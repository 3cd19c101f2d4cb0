"""User turns as a model is fed them: the template, pictures with their own text, a question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from flmm.readers.families import Family
from flmm.readers.prompts import PlainTextTokenizer
from flmm.records import ImageInput, Span


@dataclass(frozen=True)
class EncodedTurn:
    """A user turn as the model is fed it, up to where the answer begins.

    Attributes:
        input_ids: pictures expanded.
        image_columns: of each picture from its first to its last image token.
        question: of each token of the question its place in the ids and its characters.
    """

    input_ids: list[int]
    image_columns: list[slice]
    question: list[tuple[int, Span]]


@dataclass(frozen=True)
class _PlacedImage:
    """A picture's own tokens, and the text that the processor writes at their ends.

    ``columns`` reach from the first to the last image token.
    """

    input_ids: list[int]
    columns: slice
    before: str
    after: str


class TurnEncoder:
    """Encodes turns for a model of a family."""

    def __init__(self, family: Family, tokenizer: PlainTextTokenizer) -> None:
        self._family, self.tokenizer = family, tokenizer
        self._control = {family.config.image_token_id, *tokenizer.control_ids.values()}

    def encode(
        self, question: str, images: Sequence[ImageInput], is_first: bool = True
    ) -> EncodedTurn:
        """A turn: its pictures, then a question in plain text.

        With ``is_first`` nothing stands before; else the turn begins behind the last token of an
        answer, and closes it.
        """
        before, after = self._family.render(len(images), is_first)
        pictures = [self._place_image(image) for image in images]
        written = self._family.placeholder
        mark = self._find_mark(written)
        around = iter([f"{item.before}{mark}{item.after}" for item in pictures])
        before, after = (
            re.sub(re.escape(written), lambda _: next(around, mark), text)
            for text in (before, after)
        )
        ids, words = self.tokenizer.encode_template(before, question, after, is_first)
        placeholder = self.tokenizer.control_ids[mark]
        if ids.count(placeholder) != len(images):
            raise ValueError(
                f"the rendered turn holds {ids.count(placeholder)} image placeholders for "
                f"{len(images)} pictures: the chat template must write exactly one for each"
            )
        expanded: list[int] = []
        columns: list[slice] = []
        moved: list[int] = []
        for index in ids:
            moved.append(len(expanded))
            if index != placeholder:
                expanded.append(index)
                continue
            picture, start = pictures[len(columns)], len(expanded)
            columns.append(slice(start + picture.columns.start, start + picture.columns.stop))
            expanded += picture.input_ids
        return EncodedTurn(expanded, columns, [(moved[place], span) for place, span in words])

    def _find_mark(self, written: str) -> str:
        """The control token of a placeholder; where it is plain text, that of a picture's part."""
        control = self.tokenizer.control_ids
        names = (name for name, index in control.items() if index == self._family.image_token_id)
        return written if written in control else next(names)

    def _place_image(self, image: ImageInput) -> _PlacedImage:
        """A picture's tokens, with the text at their ends apart."""
        token = self._family.config.image_token_id
        ids = torch.where(image.token_ids < 0, token, image.token_ids).tolist()
        places = [place for place, index in enumerate(ids) if index == token]
        if not places:
            raise ValueError(
                f"the picture holds no token {token}, which stands for a part of a picture: "
                "encode it with this model's own processor"
            )
        control = self._control
        first = next(place for place, index in enumerate(ids) if index in control)
        end = next(place for place in range(len(ids), 0, -1) if ids[place - 1] in control)
        return _PlacedImage(
            ids[first:end],
            slice(places[0] - first, places[-1] + 1 - first),
            self.tokenizer.decode(ids[:first]),
            self.tokenizer.decode(ids[end:]),
        )
