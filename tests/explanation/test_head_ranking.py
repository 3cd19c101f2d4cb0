"""The head browser: figures against plain numpy, flat memory, what is written, what it is for."""

import json
import weakref

import numpy as np
import pytest
import torch

from flmm.apps.explanation import load_head_ranking, rank_heads
from flmm.records import GroundingSample, as_continuations
from flmm.toy.shape_sentences import render_samples


def build_item(vlm, sample):
    return {
        "inputs": vlm.image_processor.encode(sample.image),
        "data_samples": GroundingSample(
            continuations=as_continuations(sample.phrases), gt_masks=torch.from_numpy(sample.masks)
        ),
    }


@pytest.fixture(scope="module")
def vlm(inferencer):
    return inferencer.model.vlm


@pytest.fixture(scope="module")
def samples():
    return render_samples(12, seed=21)


@pytest.fixture(scope="module")
def ranking(vlm, samples):
    return rank_heads(vlm, [build_item(vlm, sample) for sample in samples])


def test_figures_equal_plain_numpy(vlm, samples, ranking):
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
    assert ranking.phrases == len(shares) and ranking.skipped == 0
    for item in ranking.heads:
        channel = item.layer * vlm.num_heads + item.head
        assert item.inside_share == pytest.approx(np.mean(shares, 0)[channel], abs=1e-6)
        assert item.hit_rate == pytest.approx(np.mean(hits, 0)[channel], abs=1e-6)
    assert list(ranking.chance.values()) == pytest.approx(np.mean(chance, 0).tolist(), abs=1e-6)
    assert len(ranking.heads) == vlm.num_maps
    figures = [item.inside_share for item in ranking.heads]
    assert figures == sorted(figures, reverse=True)


def test_some_heads_of_the_toy_point_and_not_by_chance(ranking):
    assert ranking.heads[0].inside_share > 4 * ranking.chance["inside_share"]
    assert ranking.heads[0].hit_rate > 3 * ranking.chance["hit_rate"]


def test_other_measures_rank_otherwise(vlm, samples):
    ranking = rank_heads(vlm, [build_item(vlm, samples[0])], measure="hit_rate")
    figures = [item.hit_rate for item in ranking.heads]
    assert figures == sorted(figures, reverse=True)
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
    ranking = rank_heads(vlm, [good, empty, bad])
    alone = rank_heads(vlm, [good])
    assert ranking.heads == alone.heads
    assert ranking.skipped == len(samples[1].phrases) + len(samples[2].phrases)
    with pytest.raises(ValueError, match="no phrase with a mask to rank heads on"):
        rank_heads(vlm, [empty, bad])


def test_json_comes_back(ranking, tmp_path):
    path = ranking.save_json(tmp_path / "new" / "heads.json")
    assert load_head_ranking(path) == ranking
    assert json.loads(path.read_text())["heads"][0].keys() == {
        "layer",
        "head",
        "inside_share",
        "hit_rate",
    }
    best = ranking.best(3)
    assert best == [(item.layer, item.head) for item in ranking.heads[:3]]
    with pytest.raises(ValueError, match="0 best heads"):
        ranking.best(0)
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        load_head_ranking(tmp_path / "none.json")
    path.write_text("[1]")
    with pytest.raises(ValueError, match="is no ranking of heads"):
        load_head_ranking(path)


def test_the_table_ends_with_chance(ranking):
    lines = ranking.format_table(5).splitlines()
    assert lines[0].split("  ")[0] == "rank" and lines[0].endswith("inside share %  hit rate %")
    assert len(lines) == 2 + 5 + 1 and "chance" in lines[-1]
