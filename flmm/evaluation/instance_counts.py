"""Are the objects of a phrase counted right? Of what ``GroundingResult.instances`` finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from flmm.tables import format_text


@torch.inference_mode()
def count_instances(model: Any, samples: Iterable[dict[str, Any]]) -> Counter[tuple[int, int]]:
    """How many phrases there are by (objects that they mean, objects that were found).

    Args:
        model: with ``predict_images``, in eval mode.
        samples: items of a data set whose samples have ``object_counts``.

    Raises:
        ValueError: a sample does not say how many objects its phrases mean.
    """
    counts: Counter[tuple[int, int]] = Counter()
    for sample in samples:
        image, truth = sample["inputs"], sample["data_samples"]
        if image is None:
            continue
        if truth.get("object_counts") is None:
            raise ValueError(
                f"picture {truth.get('image_id')} does not say how many objects its phrases mean: "
                "give a data set with object_counts"
            )
        ((result,),) = model.predict_images([image], [[truth.continuations]])
        found = [len(item.objects) for item in result.instances]
        counts.update(zip(truth.object_counts, found))
    return counts


def format_counts(counts: Mapping[tuple[int, int], int]) -> str:
    """A row per number of objects that phrases mean, then one of all above one, in percent."""
    groups = {str(number): {number} for number in sorted({true for true, _ in counts})}
    groups["2 and more"] = {true for true, _ in counts if true > 1}
    rows: list[list[Any]] = [["objects", "counted right %", "fewer %", "more %", "phrases"]]
    for label, own in groups.items():
        sides: Counter[int] = Counter()
        for (true, found), phrases in counts.items():
            if true in own:
                sides[(found > true) - (found < true)] += phrases
        total = sum(sides.values())
        if total:
            rows.append([label, *(100 * sides[side] / total for side in (0, -1, 1)), total])
    return format_text(rows)
