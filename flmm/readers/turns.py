"""User turns as token ids: the template around a question, with what stands for its pictures."""

from __future__ import annotations

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


class TurnEncoder:
    """Encodes turns for a model of a family."""

    def __init__(self, family: Family, tokenizer: PlainTextTokenizer) -> None:
        self._family, self.tokenizer = family, tokenizer

    def encode(
        self, question: str, images: Sequence[ImageInput], is_first: bool = True
    ) -> EncodedTurn:
        """A turn: its pictures, then a question in plain text.

        With ``is_first`` nothing stands before; else the turn begins behind the last token of an
        answer, and closes it.
        """
        before, after = self._family.render(len(images), is_first)
        ids, words = self.tokenizer.encode_template(before, question, after, is_first)
        placeholder = self._family.config.image_token_id
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
            own, inside = _place_image(images[len(columns)], placeholder)
            columns.append(slice(len(expanded) + inside.start, len(expanded) + inside.stop))
            expanded += own
        return EncodedTurn(expanded, columns, [(moved[place], span) for place, span in words])


def _place_image(image: ImageInput, placeholder: int) -> tuple[list[int], slice]:
    """A picture's token ids, and where among them its image tokens begin and end."""
    ids = torch.where(image.token_ids < 0, placeholder, image.token_ids)
    places = (ids == placeholder).nonzero()[:, 0].tolist()
    if not places:
        raise ValueError(
            f"the picture holds no token {placeholder}, which stands for a part of a picture: "
            "encode it with this model's own processor"
        )
    return ids.tolist(), slice(places[0], places[-1] + 1)
