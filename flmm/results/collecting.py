"""From the grounder's raw outputs to a result: thresholds, scores, boxes, run lengths.

In: outputs of the phrases of one picture, a part after the other. Out: one result. Only one part's
logits are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from flmm.geometry import Size, compute_boxes_xyxy
from flmm.records import GroundingOutput, compute_scores
from flmm.results.picture import ResultPicture
from flmm.results.result import GroundingResult
from flmm.rle import encode_mask


def collect_result(
    phrases: Sequence[str],
    outputs: Iterable[GroundingOutput],
    size: Size,
    picture: ResultPicture | None = None,
    return_maps: bool = False,
    return_probs: bool = False,
) -> GroundingResult:
    """Threshold outputs at probability one half and keep what is asked for, as numpy.

    Args:
        phrases: P of them.
        outputs: of parts of the phrases, in order; together of all P.
        size: (H, W) of the picture as given.
        picture: for drawing.
        return_maps: keep ``coarse_mask_logits`` and ``attention_maps``.
        return_probs: keep ``probs``.
    """
    segmentations = []
    kept: dict[str, list[np.ndarray]] = {}
    for output in outputs:
        logits = output.refined_mask_logits.detach()
        masks = logits > 0
        part = {"scores": compute_scores(logits), "boxes_xyxy": compute_boxes_xyxy(masks)}
        if return_maps:
            part["coarse_mask_logits"] = output.coarse_mask_logits.float()
            part["attention_maps"] = output.attention_maps.float()
        if return_probs:
            part["probs"] = logits.float().sigmoid()
        for name, values in part.items():
            kept.setdefault(name, []).append(_to_numpy(values))
        segmentations += [encode_mask(mask) for mask in _to_numpy(masks)]
    arrays = {name: np.concatenate(parts) for name, parts in kept.items()}
    return GroundingResult(list(phrases), segmentations, size=size, picture=picture, **arrays)


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


__all__ = ["collect_result"]
