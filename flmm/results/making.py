"""From logits to a result: thresholds, scores, run lengths."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from flmm.records import GroundingOutput
from flmm.results.phrase import GroundedObject, GroundedPhrase, ResultPicture
from flmm.results.result import GroundingResult, join_results
from flmm.rle import encode_mask


def compute_scores(mask_logits: Tensor) -> Tensor:
    """``[P, H, W]`` to float32 ``[P]``: mean probability where the logit is positive, else 0."""
    masks = mask_logits > 0
    inside = (mask_logits.float().sigmoid() * masks).flatten(1).sum(1)
    return inside / masks.flatten(1).sum(1).clamp(min=1)


def make_result(
    phrases: Sequence[str],
    mask_logits: Tensor,
    coarse_mask_logits: Tensor | None = None,
    attention_maps: Tensor | None = None,
    return_probs: bool = False,
    problems: Sequence[str | None] | None = None,
    presence: Tensor | None = None,
    object_logits: Sequence[Tensor] | None = None,
) -> GroundingResult:
    """Threshold logits ``[P, H, W]`` at probability one half; coarse logits and maps are kept.

    Args:
        problems, object_logits: as in :class:`GroundingOutput`.
        presence: ``[P]`` in [0, 1]; ``None``: the highest probability of any pixel.
    """
    logits = mask_logits.detach()
    masks = (logits > 0).cpu().numpy()
    scores = compute_scores(logits).tolist()
    if presence is None:
        presence = logits.flatten(1).amax(1).float().sigmoid()
    reasons = problems or [None] * len(phrases)
    found = [
        GroundedPhrase.from_mask(*row)
        for row in zip(phrases, masks, scores, presence.tolist(), reasons)
    ]
    if object_logits is not None:
        found = [_tell_apart(*pair) for pair in zip(found, object_logits)]
    return GroundingResult(
        found,
        (logits.shape[1], logits.shape[2]),
        probs=_to_numpy(logits.float().sigmoid()) if return_probs else None,
        coarse_mask_logits=_to_numpy(coarse_mask_logits),
        attention_maps=_to_numpy(attention_maps),
    )


def collect_result(
    phrases: Sequence[str],
    outputs: Iterable[GroundingOutput],
    picture: ResultPicture | None = None,
    return_maps: bool = False,
    return_probs: bool = False,
) -> GroundingResult:
    """One result of outputs of some phrases each, whose logits are in memory one at a time."""
    words = iter(phrases)
    parts: list[GroundingResult] = []
    for output in outputs:
        logits = output.refined_mask_logits
        own = list(itertools.islice(words, len(logits)))
        coarse = output.coarse_mask_logits if return_maps else None
        maps = output.attention_maps if return_maps else None
        parts.append(make_result(own, logits, coarse, maps, return_probs, **output.remarks))
    result = join_results(parts)
    result.picture = picture
    return result


def _tell_apart(phrase: GroundedPhrase, logits: Tensor) -> GroundedPhrase:
    """The phrase with its objects, of logits ``[n, H, W]``, each by itself."""
    if phrase.is_empty:
        return phrase
    masks, scores = (logits > 0).cpu().numpy(), compute_scores(logits).tolist()
    pairs = [(mask, score) for mask, score in zip(masks, scores) if mask.any()]
    return replace(
        phrase, objects=tuple(GroundedObject((encode_mask(mask),), score) for mask, score in pairs)
    )


def _to_numpy(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.detach().float().cpu().numpy()
