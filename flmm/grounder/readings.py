"""Pictures that have been read, and any number of phrases of them in bounded memory.

The logits of two thousand phrases of a 12-megapixel picture would take 96 GB at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from flmm.grounder.grounder import Grounder
from flmm.records import Continuation, GroundingOutput, ImageInput, PhraseAttention

if TYPE_CHECKING:
    from flmm.masks import ImageEncoding
    from flmm.readers.base import Prefix
    from flmm.readers.boxes import BoxReading

# What phrases may take at a time; the results do not depend on it.
MAX_MAP_BYTES = 2**28  # their attention maps
MAX_PART_PIXELS = 2**25  # their mask logits
_FRAME_PIXELS = 2**20  # a refiner's own frame, for a picture that is smaller


@dataclass(frozen=True, eq=False)
class Reading:
    """A picture as reader and refiner (if any) have seen it; phrases cost little after that."""

    prefix: Prefix
    encoding: ImageEncoding | None


@torch.no_grad()
def read_images(
    grounder: Grounder, images: Sequence[ImageInput], layers: int | None = None
) -> list[Reading]:
    """Pictures of any sizes, read and encoded as batches.

    ``layers``: with so many of the reader's first; ``None``: those that the grounder needs.
    """
    prefixes = grounder.vlm.prefill(list(images), layers=layers or grounder.layers)
    return [Reading(*pair) for pair in zip(prefixes, grounder.encode_images(images))]


@torch.no_grad()
def ground_readings(
    grounder: Grounder, readings: Sequence[Reading], continuations: Sequence[list[Continuation]]
) -> Iterator[Iterator[GroundingOutput]]:
    """Ground any number of phrases of pictures that were read; those read together, together.

    Yields:
        per picture its outputs, each of some of its phrases, in their order; computed when they
        are asked for.
    """
    columns = sum(grid.columns.numel() for item in readings for grid in item.prefix.grids)
    limit = max(1, MAX_MAP_BYTES // (4 * grounder.vlm.num_maps * columns))
    groups = [_group_phrases(own, limit) for own in continuations]
    prefixes = [item.prefix for item in readings]
    first = grounder.attend(prefixes, [own[0] for own in groups])
    for reading, seen, own in zip(readings, first, groups):
        yield _ground_groups(grounder, reading, seen, own)


@torch.no_grad()
def _ground_groups(
    grounder: Grounder,
    reading: Reading,
    first: PhraseAttention,
    groups: Sequence[list[Continuation]],
) -> Iterator[GroundingOutput]:
    """The phrases of the first group have been asked where they look, the others are."""
    prefix, encoding = reading.prefix, reading.encoding
    for place, continuations in enumerate(groups):
        seen = first if place == 0 else grounder.attend([prefix], [continuations])[0]
        phrases = [phrase for item in continuations for phrase in item.phrases]
        boxes = grounder.find_boxes(prefix, phrases)
        yield from ground_parts(grounder, prefix.image_input, seen, encoding, boxes)


@torch.no_grad()
def ground_parts(
    grounder: Grounder,
    image: ImageInput,
    seen: PhraseAttention,
    encoding: ImageEncoding | None,
    boxes: Sequence[BoxReading] | None = None,
) -> Iterator[GroundingOutput]:
    """As ``grounder.ground_seen``, some phrases after the others."""
    height, width = image.original_size
    step = max(1, MAX_PART_PIXELS // max(height * width, _FRAME_PIXELS))
    for start in range(0, len(seen.maps), step):
        part = slice(start, start + step)
        yield grounder.ground_seen(image, seen.select(part), encoding, boxes and boxes[part])


def _group_phrases(
    continuations: Sequence[Continuation], max_phrases: int
) -> list[list[Continuation]]:
    """Continuations in order, in groups of at most so many phrases (but at least one text)."""
    groups: list[list[Continuation]] = []
    count = 0
    for item in continuations:
        count += len(item.phrases)
        if not groups or count > max_phrases:
            groups.append([])
            count = len(item.phrases)
        groups[-1].append(item)
    return groups
