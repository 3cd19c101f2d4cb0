"""What is shipped points without training: at what a phrase names, and not at its neighbours."""

import numpy as np
import pytest

from flmm import GroundingInferencer
from flmm.grounder import Grounder
from flmm.head_choice import load_head_choice
from flmm.head_selection import choose_heads
from flmm.masks import RuleHead
from flmm.toy.shape_sentences import render_samples


@pytest.fixture(scope="module")
def grounder():
    return GroundingInferencer("tiny_rule_sam_shapes", device="cpu")


def compute_iou(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


def test_masks_are_of_what_the_phrase_names(grounder):
    """IoU with the phrase's own object, and with the next one in the same picture."""
    own, other = [], []
    for sample in render_samples(8, seed=77):
        truths = sample.masks.astype(bool)
        for place, mask in enumerate(grounder(sample.image, sample.phrases).masks):
            own.append(compute_iou(mask, truths[place]))
            following = truths[(place + 1) % len(truths)]
            if not (following & truths[place]).any():
                other.append(compute_iou(mask, following))
    assert len(other) > 20 and np.mean(own) > 0.6 and np.mean(other) < np.mean(own) / 3


def test_the_shipped_choice_is_what_choosing_finds(grounder, samples):
    """On other scenes than it was made on."""
    shipped = load_head_choice("tiny")
    assert shipped.method == "no labels"
    found = choose_heads(grounder.model.vlm, ((item.image, item.phrases) for item in samples))
    assert set(shipped.best(4).heads) == set(found.best(4).heads)


def test_three_lines_give_the_same(grounder, samples, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    opened = GroundingInferencer.from_reader("tiny", refiner="tiny", device="cpu")
    expected = grounder(samples[0].image, samples[0].phrases)
    np.testing.assert_array_equal(
        opened(samples[0].image, samples[0].phrases).masks, expected.masks
    )


def test_heads_of_another_reader_are_refused(grounder):
    choice = {"heads": [(0, 0)], "num_layers": 4, "num_heads": 6, "reader": "another"}
    head = RuleHead(choice)
    with pytest.raises(ValueError, match=r"4 layers x 6 heads \(another\), and this one has 5 x 6"):
        Grounder(grounder.model.vlm, head)
