"""Heads ranked by labels: figures against plain numpy, flat memory, what is left out."""

import weakref

import numpy as np
import pytest

from flmm.head_selection import rank_heads
from tests.head_selection.conftest import build_item


@pytest.fixture(scope="module")
def choice(vlm, samples):
    return rank_heads(vlm, [build_item(vlm, sample) for sample in samples])


def test_figures_equal_plain_numpy(vlm, samples, choice):
    """Slowly: every pixel of an enlarged mask, every phrase, every head."""
    shares, hits, chance = [], [], []
    for sample in samples:
        seen = vlm.attend(vlm.prefill(sample.image), sample.phrases).maps.numpy().astype(float)
        rows, columns = seen.shape[-2:]
        for maps, mask in zip(seen, sample.masks):
            fine = np.kron(mask, np.ones((rows, columns), np.uint8))
            cells = fine.reshape(rows, mask.shape[0], columns, mask.shape[1]).mean((1, 3))
            shares.append([(grid * cells).sum() / grid.sum() for grid in maps])
            hits.append([cells[np.unravel_index(grid.argmax(), grid.shape)] > 0 for grid in maps])
            chance.append([cells.mean(), (cells > 0).mean()])
    channels = choice.list_channels()
    assert sorted(channels) == list(range(vlm.num_maps))
    assert choice.source == f"{len(shares)} phrases, 0 skipped" and choice.method == "labels"
    figures = choice.figures
    np.testing.assert_allclose(figures["inside_share"], np.mean(shares, 0)[channels], atol=1e-6)
    np.testing.assert_allclose(figures["hit_rate"], np.mean(hits, 0)[channels], atol=1e-6)
    assert list(choice.chance.values()) == pytest.approx(np.mean(chance, 0).tolist(), abs=1e-6)
    assert figures["inside_share"] == sorted(figures["inside_share"], reverse=True)
    # Some heads of the toy point, and not by chance.
    assert figures["inside_share"][0] > 4 * choice.chance["inside_share"]
    assert figures["hit_rate"][0] > 3 * choice.chance["hit_rate"]


def test_other_measures_rank_otherwise(vlm, samples):
    choice = rank_heads(vlm, [build_item(vlm, samples[0])], measure="hit_rate")
    assert choice.figures["hit_rate"] == sorted(choice.figures["hit_rate"], reverse=True)
    with pytest.raises(ValueError, match="measure is 'luck': use one of inside_share, hit_rate"):
        rank_heads(vlm, [], measure="luck")


def test_samples_are_let_go(vlm, samples):
    alive = []

    def stream():
        for sample in samples:
            item = build_item(vlm, sample)
            alive.append(weakref.ref(item["inputs"]))
            yield item
            del item
            assert sum(reference() is not None for reference in alive) <= 2

    rank_heads(vlm, stream())
    assert len(alive) == len(samples)


def test_empty_masks_and_bad_records_are_counted(vlm, samples):
    good, empty = build_item(vlm, samples[0]), build_item(vlm, samples[1])
    empty["data_samples"].gt_masks[:] = False
    bad = {"inputs": None, "data_samples": build_item(vlm, samples[2])["data_samples"]}
    choice, alone = rank_heads(vlm, [good, empty, bad]), rank_heads(vlm, [good])
    assert choice.heads == alone.heads and choice.figures == alone.figures
    skipped = len(samples[1].phrases) + len(samples[2].phrases)
    assert choice.source.endswith(f", {skipped} skipped")
    with pytest.raises(ValueError, match="no phrase with a mask to rank heads on"):
        rank_heads(vlm, [empty, bad])
