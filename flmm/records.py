"""The records that travel between rooms, and the glossary of their shapes.

B images · P phrases · L attention layers that were read · A heads · T tokens of a phrase ·
R tokens of a continuation · S tokens of a prefix · D hidden width · ``h w`` attention grid ·
``h' w'`` coarse mask grid · ``H W`` original pixels · ``H' W'`` VLM input pixels.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

Span = tuple[int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Grid:
    """Image tokens that form a grid over (a part of) a picture.

    Attributes:
        columns: int64 ``[h, w]``, where each cell's token stands in the sequence.
        box: (x0, y0, x1, y1) in pixels of the picture as given, edges; reaches outside where the
            model saw padding, lies inside where it saw a crop.
    """

    columns: Tensor
    box: Box

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return self.columns.shape[0], self.columns.shape[1]

    def shift(self, columns: int) -> Grid:
        """The same grid, so many columns further behind in a sequence."""
        return replace(self, columns=self.columns + columns)


@dataclass(frozen=True)
class Continuation:
    """A text that goes on after a prefix, with the phrases to be grounded in it.

    Attributes:
        text: what is fed after the prefix, as plain text (control tokens are not obeyed).
        spans: half-open character ranges of the phrases in ``text``, in output order; ``None``: all
            of it is one. A phrase sees the text before it, and never another continuation.
        keyword_spans: half-open character ranges of all names in ``text``, what a keyword
            selector learns; ``None``: the phrases are all of them.
    """

    text: str
    spans: tuple[Span, ...] | None = None
    keyword_spans: tuple[Span, ...] | None = None

    def __post_init__(self) -> None:
        spans = ((0, len(self.text)),) if self.spans is None else tuple(map(tuple, self.spans))
        object.__setattr__(self, "spans", spans)
        keywords = None if self.keyword_spans is None else tuple(map(tuple, self.keyword_spans))
        object.__setattr__(self, "keyword_spans", keywords)
        if not spans:
            raise ValueError(f"no phrase span given for {self.text!r}: pass at least one")
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text {reprlib.repr(self.text)} is no valid Unicode (half of a character): no "
                "tokenizer can read it"
            ) from error
        for start, end in (*spans, *(keywords or ())):
            if not (0 <= start < end <= len(self.text)) or not self.text[start:end].strip():
                raise ValueError(
                    f"phrase span ({start}, {end}) of {self.text!r} is empty or reaches outside "
                    f"the text (length {len(self.text)}): give a half-open character range that "
                    "holds at least one visible character"
                )

    @property
    def phrases(self) -> list[str]:
        """The phrases as text, in output order."""
        return [self.text[start:end] for start, end in self.spans or ()]


@dataclass
class PhraseAttention:
    """Where each phrase of one image looked, and what the reader thought while saying it.

    Attributes:
        grid_maps: per grid of the picture, finest first, float32 ``[P, L*A, h, w]`` in [0, 1]:
            softmax over all visible tokens, image columns kept, rows of a phrase merged. Channel
            ``l*A + a`` is head ``a`` of layer ``l``.
        text_features: per phrase ``[L, T, D]``: the output of each of the L layers, of the reader's
            very last one after the final norm.
        input_ids: per continuation ``[R]`` int64: what was fed after the prefix.
        hidden_states: per continuation ``[R, D]``: what was thought at each of its tokens, after
            the final norm; ``None``, or an empty list, where nobody kept it.
        yes_odds: ``[P]``, log odds of the reader's "yes" when asked whether it sees the phrase's
            thing; ``None``: nobody asked.
    """

    grid_maps: list[Tensor]
    text_features: list[Tensor]
    input_ids: list[Tensor]
    hidden_states: list[Tensor | None] = field(default_factory=list)
    yes_odds: Tensor | None = None

    @property
    def maps(self) -> Tensor:
        """Of the finest grid."""
        return self.grid_maps[0]

    def select(self, rows: slice) -> PhraseAttention:
        """Some of the phrases; what is told per continuation stays as it is."""
        return replace(
            self,
            grid_maps=[maps[rows] for maps in self.grid_maps],
            text_features=self.text_features[rows],
            yes_odds=None if self.yes_odds is None else self.yes_odds[rows],
        )

    def keep_layers(self, layers: int, num_heads: int) -> PhraseAttention:
        """What the first layers alone tell, as a reading that stopped there does; views."""
        return replace(
            self,
            grid_maps=[maps[:, : layers * num_heads] for maps in self.grid_maps],
            text_features=[features[:layers] for features in self.text_features],
        )


@dataclass
class ImageInput:
    """One picture, ready for the reader; made by an image processor, in a loader's worker or not.

    Attributes:
        pixel_values: resized and normalised, as the reader's family lays them out (Qwen-VL:
            float32 ``[C, H', W']``).
        inputs: the other tensors that the processor gave for this picture alone.
        token_ids: int64 ``[n]``, what stands for the picture in a sequence, the processor's tags
            included; -1: the model's image token.
        grids: over the picture, finest first; columns count from the first image token.
        image: uint8 RGB ``[H, W, 3]``, the picture as given (what the refiner encodes).
        over_patches: the grids' cells are finer than image tokens: see ``cell_weights``.
        cell_weights: of a picture ``over_patches`` that was read, float32 ``[n, cells]``: the part
            of what is on an image token that each cell of all grids, in order, is given.
    """

    pixel_values: Tensor
    inputs: dict[str, Tensor]
    token_ids: Tensor
    grids: list[Grid]
    image: np.ndarray
    over_patches: bool = False
    cell_weights: Tensor | None = None

    @property
    def original_size(self) -> tuple[int, int]:
        """(H, W) pixels of the picture as given."""
        return self.image.shape[0], self.image.shape[1]

    def pin_memory(self) -> ImageInput:
        """Called by ``DataLoader(pin_memory=True)``."""
        inputs = {name: value.pin_memory() for name, value in self.inputs.items()}
        return replace(self, pixel_values=self.pixel_values.pin_memory(), inputs=inputs)


class GroundingSample(BaseDataElement):
    """One image's phrases and, in training, their true masks.

    Data fields (all optional but ``continuations``):
        continuations: list of :class:`Continuation`.
        gt_masks: bool ``[P, H, W]``, original pixels, in phrase order.
        ignored: bool ``[H, W]``, pixels that are in no figure.
        pred_masks, coarse_masks, scores: the prediction, written by ``Grounder.predict``.

    Meta fields: ``image_id``, ``img_path``, ``original_size`` (H, W), ``expression_ids`` (one per
    phrase, unique in the dataset) and, where the data set knows them, ``ref_ids``,
    ``expression_kinds`` (one ``str`` per phrase) and ``expression_groups`` (a tuple of group names
    per phrase, such as ``("things", "plurals")``) and ``object_counts`` (how many objects each
    phrase means). ``skipped`` is the reason why a record could not
    be used; such a sample has no ``gt_masks``, and its picture is ``None``.
    """

    @property
    def phrases(self) -> list[str]:
        """The phrases of all continuations, in output order."""
        return [phrase for item in self.continuations for phrase in item.phrases]


@dataclass(frozen=True)
class SkippedExpression:
    """An expression that a data set could not use, and why: nobody drops it in silence."""

    expression_id: int | str
    image_id: int | str
    reason: str


@dataclass
class GroundingOutput:
    """What the grounder computes for one image, before thresholds.

    Attributes:
        attention_maps: float32 ``[P, C, h, w]``, what the mask head was given, over the picture.
        coarse_mask_logits: ``[P, h', w']``, over the picture.
        refined_mask_logits: ``[P, H, W]``, original pixels; minus infinity where the grounder says
            that nothing is there.
        presence: float32 ``[P]`` in [0, 1], calibrated; ``None``: nobody judges it.
        object_logits: per phrase those of each of its objects, ``[n, H, W]``; ``None``: nobody told
            them apart.
        problems: per phrase what went wrong, or ``None``; see ``GroundedPhrase.problem``.
    """

    attention_maps: Tensor
    coarse_mask_logits: Tensor
    refined_mask_logits: Tensor
    presence: Tensor | None = None
    object_logits: list[Tensor] | None = None
    problems: list[str | None] | None = None

    @property
    def remarks(self) -> dict[str, Any]:
        """What is said of the phrases beside their logits, as ``make_result`` takes it."""
        names = ("presence", "object_logits", "problems")
        return {name: getattr(self, name) for name in names}


def join_attention(parts: Sequence[PhraseAttention]) -> PhraseAttention:
    """One record of several of one picture, in order."""
    if len(parts) == 1:
        return parts[0]
    odds = [part.yes_odds for part in parts if part.yes_odds is not None]
    return PhraseAttention(
        grid_maps=[torch.cat(maps) for maps in zip(*(part.grid_maps for part in parts))],
        text_features=[features for part in parts for features in part.text_features],
        input_ids=[ids for part in parts for ids in part.input_ids],
        hidden_states=[
            states
            for part in parts
            for states in part.hidden_states or [None] * len(part.input_ids)
        ],
        yes_odds=torch.cat(odds) if len(odds) == len(parts) else None,
    )


def as_continuations(
    phrases: Sequence[str | Continuation] | str | Continuation,
) -> list[Continuation]:
    """Plain phrases as continuations of their own; continuations pass unchanged."""
    if isinstance(phrases, (str, Continuation)):
        phrases = [phrases]
    items = []
    for index, phrase in enumerate(phrases):
        if isinstance(phrase, Continuation):
            items.append(phrase)
        elif not isinstance(phrase, str):
            raise TypeError(
                f"phrase {index} is a {type(phrase).__name__}: give a str or a Continuation"
            )
        elif not phrase.strip():
            raise ValueError(f"phrase {index} ({phrase!r}) is blank: give at least one word")
        else:
            items.append(Continuation(phrase))
    if not items:
        raise ValueError("no phrase given: pass at least one, for example ['the red circle']")
    return items
