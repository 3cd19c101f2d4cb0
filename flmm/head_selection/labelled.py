"""Which heads point best, on a labelled set.

Memory does not grow with the set: sums per head are kept. For a phrase with the true mask M, which
covers ``c[i, j]`` of each cell, and a head that puts the weight ``m[i, j]`` on cell ``(i, j)``:

- **inside share**: ``sum(m * c) / sum(m)``, mean over phrases. A head that looks everywhere alike
  has the mask's share of the picture.
- **hit rate**: the pointing game; share of phrases where the cell of the greatest weight touches
  the mask (``c > 0``). A cell takes the place of the 15 px that the game usually forgives.

Source: pointing game, Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from flmm.geometry import compute_coverage, merge_grids
from flmm.head_choice import HeadChoice, rank_choice
from flmm.readers import FrozenVLM

MEASURES = ("inside_share", "hit_rate")


@torch.inference_mode()
def rank_heads(
    vlm: FrozenVLM, samples: Iterable[dict[str, Any]], measure: str = "inside_share"
) -> HeadChoice:
    """All of a reader's heads, ranked on a labelled set.

    Args:
        samples: items of a data set: ``dict(inputs=ImageInput | None, data_samples=
            GroundingSample)`` with ``gt_masks``; read one after the other. Phrases whose record is
            bad or whose mask is empty are not counted, and the choice's ``source`` says how many.
        measure: ``"inside_share"`` or ``"hit_rate"``.

    Raises:
        ValueError: the measure is unknown, or there is no phrase with a mask.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}: use one of {', '.join(MEASURES)}")
    sums = torch.zeros(len(MEASURES), vlm.num_maps, dtype=torch.float64)
    chance = torch.zeros(len(MEASURES), dtype=torch.float64)
    phrases = skipped = 0
    for sample in samples:
        image, truth = sample["inputs"], sample["data_samples"]
        if image is None:
            skipped += len(truth.phrases)
            continue
        seen = vlm.attend(vlm.prefill(image), truth.continuations)
        maps = merge_grids(seen.grid_maps, image).cpu().double()
        coverage = compute_coverage(truth.gt_masks.cpu(), (maps.shape[-2], maps.shape[-1]))
        kept = coverage.flatten(1).sum(1) > 0
        figures, expected = _measure(maps[kept], coverage[kept].double())
        sums += figures
        chance += expected
        phrases += int(kept.sum())
        skipped += int((~kept).sum())
    if not phrases:
        raise ValueError(
            f"the set holds no phrase with a mask to rank heads on ({skipped} were skipped): give "
            "another split or folder"
        )
    means = dict(zip(MEASURES, (sums / phrases).tolist()))
    return rank_choice(
        means,
        means[measure],
        vlm,
        reader=vlm.extra_repr(),
        method="labels",
        source=f"{phrases} phrases, {skipped} skipped",
        chance=dict(zip(MEASURES, (chance / phrases).tolist())),
    )


def _measure(maps: Tensor, coverage: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over phrases: ``[2, L*A]`` of both measures, ``[2]`` of chance."""
    maps, coverage = maps.flatten(2), coverage.flatten(1)
    shares = torch.einsum("pcn,pn->pc", maps, coverage) / maps.sum(2).clamp(min=1e-30)
    touched = (coverage > 1e-6).double()  # less is rounding
    hits = touched.gather(1, maps.argmax(2))
    chance = torch.stack([coverage.mean(1).sum(), touched.mean(1).sum()])
    return torch.stack([shares.sum(0), hits.sum(0)]), chance
