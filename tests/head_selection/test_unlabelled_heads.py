"""Heads found without labels: the definition in plain numpy, and what it finds on the toy."""

import numpy as np
import pytest

from flmm.head_selection import choose_heads, rank_heads
from flmm.head_selection.unlabelled import NEUTRAL
from flmm.records import Continuation
from tests.head_selection.conftest import build_item


@pytest.fixture(scope="module")
def choice(vlm, samples):
    return choose_heads(vlm, ((sample.image, sample.phrases) for sample in samples))


def compute_plain_agreement(phrase, others, head):
    """Of one head on one phrase: ``phrase`` and each of ``others`` are its maps [C, n]."""
    special = []
    for channel, own in enumerate(phrase):
        sisters = np.mean([maps[channel] / maps[channel].sum() for maps in others], axis=0)
        special.append(own / own.sum() - sisters)
    votes = [own.sum() * left for own, left in zip(phrase, special)]
    together = np.sum([vote for channel, vote in enumerate(votes) if channel != head], axis=0)
    return special[head] @ together / np.linalg.norm(special[head]) / np.linalg.norm(together)


def test_figures_equal_plain_numpy(vlm, samples, choice):
    agreement, entropies, shares = [], [], []
    for sample in samples:
        asked = [*sample.phrases, NEUTRAL]
        maps = vlm.attend(vlm.prefill(sample.image), asked).maps.double().flatten(2).numpy()
        for number, own in enumerate(maps[:-1]):
            others = [other for place, other in enumerate(maps) if place != number]
            agreement.append([compute_plain_agreement(own, others, c) for c in range(len(own))])
            shares.append(own.sum(1))
            parts = own / own.sum(1, keepdims=True)
            entropies.append([-sum(p * np.log(p) for p in row if p > 0) for row in parts])
    channels = choice.list_channels()
    assert sorted(channels) == list(range(vlm.num_maps))
    figures = choice.figures
    np.testing.assert_allclose(figures["agreement"], np.mean(agreement, 0)[channels], atol=1e-9)
    np.testing.assert_allclose(figures["entropy"], np.mean(entropies, 0)[channels], atol=1e-9)
    np.testing.assert_allclose(figures["image_share"], np.mean(shares, 0)[channels], atol=1e-9)
    assert figures["agreement"] == sorted(figures["agreement"], reverse=True)
    assert choice.source == f"{len(agreement)} phrases of {len(samples)} pictures"


def test_it_finds_the_heads_that_labels_find(vlm, samples, choice):
    labelled = rank_heads(vlm, [build_item(vlm, sample) for sample in samples])
    assert set(choice.best(4).heads) <= set(labelled.best(6).heads)
    assert choice.method == "no labels"


def test_pictures_may_come_with_a_caption_or_with_nothing(vlm, samples):
    """The reader's own words, of four letters and more."""
    image, caption = samples[0].image, "a red circle by a square"
    spans = ((0, 12), (16, 24))
    told = choose_heads(vlm, [(image, [Continuation(caption, spans)])], count=3)
    assert len(told.heads) == 3 and told.source == "2 phrases of 1 pictures"
    prefix = vlm.prefill(image)
    words = [word for word in vlm.generate(prefix, 64).replace(".", " ").split() if len(word) > 3]
    silent = choose_heads(vlm, [(image, ())])
    assert silent.source == (
        f"{len(words)} phrases of 1 pictures (1 pictures in the reader's own words)"
    )


def test_by_entropy_the_least_spread_of_those_that_look(vlm, samples):
    items = [(sample.image, sample.phrases) for sample in samples[:3]]
    figures = choose_heads(vlm, items, count=15, measure="entropy").figures
    assert figures["entropy"] == sorted(figures["entropy"])
    every = choose_heads(vlm, items).figures["image_share"]
    assert min(figures["image_share"]) >= np.median(every) - 0.02


def test_no_picture_and_no_such_measure_are_errors(vlm):
    with pytest.raises(ValueError, match="measure is 'luck': use one of agreement, entropy"):
        choose_heads(vlm, [], measure="luck")
    with pytest.raises(ValueError, match="no picture is given to choose heads on: give a few"):
        choose_heads(vlm, [])
