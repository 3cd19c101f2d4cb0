"""Which heads point, found without any label: those that agree where a phrase is special.

A head that points looks elsewhere for "the red circle" than for the other phrases of the picture,
and so do the other pointing heads, at the same place. A head that looks at a sink, at an edge, or
at everything alike does the same for every phrase; one that only wavers agrees with nobody. So of
each head's map of phrase p (sum 1 over the picture) what is left when the mean over the picture's
other phrases, and over a phrase that names nothing, is taken off, ``r[c, p]``, is compared with
what is left of all other heads together:

    agreement(c) = mean over p of cos(r[c, p], sum of share[d, p] r[d, p] over the heads d != c)

``share[d, p]`` is the part of its attention that a head puts on the picture: with it, and with how
much of a map is special, a head's vote grows. Sums per head are kept, whatever the number of
pictures. 1: all heads say the same of every phrase; 0: they agree on nothing.

The measure "entropy" is there to compare with: of the heads whose image share is no less than the
median, those whose maps are the least spread, by Shannon's entropy in nats.

Source: that a few heads localise, and that no label is needed to find them: Kang et al., "Your
large vision-language model only needs a few attention heads for visual grounding" (arXiv
2503.06287), who keep heads with a high image share, and of those the ones that are most often among
the lowest in spatial entropy. Deviations: here the share weighs votes instead of cutting heads off;
agreement takes the place of entropy, which also likes heads that always look at one spot; our
"entropy" is of cells, not of connected regions, and ranks by its mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flmm.geometry import merge_grids
from flmm.head_choice import HeadChoice, rank_choice
from flmm.readers import FrozenVLM
from flmm.records import Continuation, as_continuations

MEASURES = ("agreement", "entropy")
NEUTRAL = "the thing"  # names nothing that a picture shows in one place
MAX_DESCRIPTION = 64  # tokens
_LEAST = 1e-30
_SHORTEST_WORD = 4  # characters: "a", "on" and "the" show nothing
Phrases = Sequence[str | Continuation]


@torch.inference_mode()
def choose_heads(
    vlm: FrozenVLM,
    items: Iterable[tuple[Any, Phrases]],
    count: int | None = None,
    measure: str = "agreement",
) -> HeadChoice:
    """The heads of a reader that point, found on pictures without masks.

    Args:
        items: pairs of a picture (anything ``load_image`` reads, or an ``ImageInput``) and the
            phrases or captions with spans that go with it; read one after the other. Of a
            picture with no phrases the reader writes a description, and its words of four letters
            and more are the phrases.
        count: so many heads, the best; ``None``: all.
        measure: what they are ranked by, ``"agreement"`` or ``"entropy"``.

    Raises:
        ValueError: there is no picture, or no such measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}: use one of {', '.join(MEASURES)}")
    sums = torch.zeros(3, vlm.num_maps, dtype=torch.float64)
    pictures = phrases = described = 0
    for picture, given in items:
        prefix = vlm.prefill(picture)
        if given:
            asked = as_continuations(given)
        else:
            asked = _describe(vlm.generate(prefix, MAX_DESCRIPTION))
        seen = vlm.attend(prefix, [*asked, Continuation(NEUTRAL)])
        maps = merge_grids(seen.grid_maps, prefix.image_input).cpu().double().flatten(2)
        sums[0] += compute_agreement(maps[:-1], maps[-1])
        sums[1] += compute_entropy(maps[:-1])
        sums[2] += maps[:-1].sum((0, 2))
        pictures += 1
        phrases += len(maps) - 1
        described += not given
    if not pictures:
        raise ValueError(
            "no picture is given to choose heads on: give a few, each with phrases of what it shows"
        )
    told = f" ({described} pictures in the reader's own words)" if described else ""
    means = sums / phrases
    marks = means[0]
    if measure == "entropy":
        marks = torch.where(means[2] >= means[2].median(), -means[1], -torch.inf)
    choice = rank_choice(
        dict(zip((*MEASURES, "image_share"), means.tolist())),
        marks.tolist(),
        vlm,
        reader=vlm.extra_repr(),
        method="no labels",
        source=f"{phrases} phrases of {pictures} pictures{told}",
    )
    return choice.best(count or len(choice.heads))


def compute_agreement(maps: Tensor, neutral: Tensor) -> Tensor:
    """Each head's agreement with the others, sum over the P phrases of one picture: ``[C]``.

    ``maps [P, C, n]`` are weights on n cells, ``neutral [C, n]`` those of a phrase of nothing.
    """
    every = torch.cat([maps, neutral[None]])
    every = every / every.sum(-1, keepdim=True).clamp(min=_LEAST)
    others = (every.sum(0) - every) / (len(every) - 1)
    special = (every - others)[:-1]
    votes = special * maps.sum(-1, keepdim=True)
    of_others = votes.sum(1, keepdim=True) - votes
    return F.cosine_similarity(special, of_others, dim=-1, eps=_LEAST).sum(0)


def compute_entropy(maps: Tensor) -> Tensor:
    """Of each head's maps ``[P, C, n]``, in nats, sum over the phrases: ``[C]``."""
    parts = maps / maps.sum(-1, keepdim=True).clamp(min=_LEAST)
    return -torch.special.xlogy(parts, parts).sum((0, 2))


def _describe(text: str) -> list[Continuation]:
    """A description as a continuation whose phrases are its longer words, or all of it."""
    if not text.strip():
        raise ValueError(
            "the reader describes a picture with no word, and no phrase is given with it: give "
            "phrases of what the pictures show"
        )
    words = (match.span() for match in re.finditer(r"\w+", text))
    spans = tuple((start, end) for start, end in words if end - start >= _SHORTEST_WORD)
    return [Continuation(text, spans or None)]
