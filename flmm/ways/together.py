"""Several grounders of one reader and one refiner on the same pictures.

A picture is read once, encoded once and asked for its boxes once for all of them, and phrases are
asked where they look once for those whose readers merge rows alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from flmm.grounder import Grounder, Reading, read_images
from flmm.readers.boxes import BoxReading
from flmm.records import Continuation, ImageInput, PhraseAttention
from flmm.results import GroundingResult

# Per picture what is asked of it: lists of continuations that know nothing of each other.
Questions = Sequence[Sequence[list[Continuation]]]


@torch.no_grad()
def predict_together(
    grounders: Sequence[Grounder], images: Sequence[ImageInput], questions: Questions
) -> list[list[list[GroundingResult]]]:
    """Per grounder what its ``predict_images`` gives, see there.

    The grounders hold the same model and the same image encoder.
    """
    first = next((item for item in grounders if item.sam is not None), grounders[0])
    readings = read_images(first, images, max(item.layers for item in grounders))
    texts = [list(chain(*lists)) for lists in questions]
    seen: dict[tuple[bool, str], list[PhraseAttention]] = {}
    boxes: list[list[BoxReading]] = []
    results = []
    for grounder in grounders:
        key = grounder.uses_maps, grounder.vlm.token_merge
        if key not in seen:
            seen[key] = grounder.attend([item.prefix for item in readings], texts)
        if grounder.uses_boxes and not boxes:
            boxes = [_find_boxes(grounder, *pair) for pair in zip(readings, texts)]
        own: Sequence[list[BoxReading] | None] = (
            boxes if grounder.uses_boxes else [None] * len(images)
        )
        rows = zip(images, questions, seen[key], [item.encoding for item in readings], own)
        results.append([grounder.ground_questions(*row) for row in rows])
    return results


def _find_boxes(
    grounder: Grounder, reading: Reading, texts: Sequence[Continuation]
) -> list[BoxReading]:
    phrases = [phrase for item in texts for phrase in item.phrases]
    return grounder.find_boxes(reading.prefix, phrases) or []
