"""A batch of pictures as data sets have them: read in few passes, with little padding."""

import numpy as np
import pytest

from flmm.readers.prefixes import plan_batches

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
# (h, w) px of COCO pictures: nearly all have a longer side of 640 or 500.
COCO_SIZES = [
    *((480, 640), (640, 480), (427, 640), (640, 427), (425, 640), (333, 500), (375, 500)),
    *((500, 375), (612, 612), (360, 640), (640, 640), (426, 640), (640, 512), (500, 333)),
]
# Screens and slips of paper among them.
MIXED_SIZES = [(480, 640), (640, 480), (1080, 1920), (90, 640), (425, 640), (900, 60), (333, 500)]
BATCH_SIZE = 8


@pytest.fixture(scope="module")
def count_tokens(vlm, noise):
    """Tokens of the prefix of a picture of (h, w) px, as the family's own processor resizes it."""
    known = {}

    def count(size):
        if size not in known:
            encoded = vlm.image_processor.encode(noise(*size))
            known[size] = len(vlm.turns.encode("Where is it?", [encoded]).input_ids)
        return known[size]

    return count


def list_waste(lengths, batches):
    """Share of padding of each pass."""
    return [
        1 - sum(lengths[place] for place in batch) / (len(batch) * lengths[batch[0]])
        for batch in batches
    ]


@pytest.mark.parametrize("sizes", [COCO_SIZES, MIXED_SIZES], ids=["coco", "mixed"])
def test_no_pass_wastes_more_than_it_may(vlm, count_tokens, sizes):
    rng = np.random.default_rng(0)
    passes = 0
    for _ in range(100):
        drawn = [sizes[place] for place in rng.integers(len(sizes), size=BATCH_SIZE)]
        lengths = list(map(count_tokens, drawn))
        batches = list(plan_batches(lengths, vlm.max_batch_tokens, vlm.max_batch_padding))
        assert sorted(place for batch in batches for place in batch) == list(range(BATCH_SIZE))
        assert max(list_waste(lengths, batches)) <= vlm.max_batch_padding
        passes += len(batches)
    if sizes is COCO_SIZES:
        assert passes < 3 * 100  # of 8 each, if they were read one by one


def test_the_reader_does_as_planned(vlm, noise, count_tokens):
    """The batches' own token masks tell what was padding."""
    sizes = [
        (480, 640),
        (90, 640),
        (427, 640),
        (640, 480),
        (333, 500),
        (60, 60),
        (480, 640),
        (70, 90),
    ]
    prefixes = vlm.prefill([noise(*size) for size in sizes], "Where is it?")
    assert [len(prefix) for prefix in prefixes] == list(map(count_tokens, sizes))
    batches = {id(prefix.batch): prefix.batch for prefix in prefixes}
    waste = [1 - float(batch.token_mask.float().mean()) for batch in batches.values()]
    assert (
        max(waste)
        <= vlm.max_batch_padding
        < 1 - sum(map(len, prefixes)) / (len(prefixes) * max(map(len, prefixes)))
    )
    assert 1 < len(batches) <= 4
    planned = plan_batches(list(map(len, prefixes)), vlm.max_batch_tokens, vlm.max_batch_padding)
    assert sorted(map(len, planned)) == sorted(len(batch.spans) for batch in batches.values())
