"""Region -> token: exact cells, ranking against plain numpy, clear errors, what the toy learned."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flmm.apps.explanation import explain
from flmm.apps.explanation.reading import compute_region_coverage
from flmm.geometry import compute_coverage
from tests.explanation.conftest import describe

SIDES = st.integers(1, 23)


def count_coverage(mask, grid_size):
    """Coverage by counting: every pixel is cut into as many parts as make all borders meet."""
    (height, width), (rows, columns) = mask.shape, grid_size
    fine = np.kron(mask, np.ones((rows, columns)))  # [H*h, W*w]
    return fine.reshape(rows, height, columns, width).mean((1, 3))


@settings(max_examples=40, deadline=None)
@given(height=SIDES, width=SIDES, rows=SIDES, columns=SIDES, seed=st.integers(0, 99))
def test_cells_of_a_mask_are_exact(height, width, rows, columns, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    covered = compute_coverage(torch.from_numpy(mask)[None], (rows, columns))[0].numpy()
    np.testing.assert_allclose(covered, count_coverage(mask, (rows, columns)), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(height=SIDES, width=SIDES, rows=SIDES, columns=SIDES, data=st.data())
def test_a_box_covers_what_its_pixels_cover(height, width, rows, columns, data):
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    of_box = compute_region_coverage((height, width), (rows, columns), box=(x0, y0, x1, y1))
    of_mask = compute_region_coverage((height, width), (rows, columns), mask=mask)
    np.testing.assert_allclose(of_box, of_mask, atol=1e-6)


def test_a_box_smaller_than_a_cell_counts_by_its_area():
    covered = compute_region_coverage((100, 200), (5, 10), box=(42.5, 61.0, 43.0, 62.0))
    assert np.argwhere(covered).tolist() == [[3, 2]]
    assert covered.sum() == pytest.approx(0.5 / 400)


def test_ranking_equals_plain_numpy(explanation):
    """A box across cell borders, cut off at the picture's edge, and a mask."""
    image = 1
    height, width = explanation.images[image].shape[:2]
    inside = np.zeros((height, width), bool)
    inside[30:77, width - 45 :] = True
    holes = inside & (np.random.default_rng(0).random(inside.shape) < 0.5)
    for region, mask in (
        ({"box": (width - 45, 30, width + 80, 77)}, inside),
        ({"mask": holes}, holes),
    ):
        ranked = explanation.rank_tokens(image, **region)
        maps = explanation.maps[image].astype(np.float64)
        covered = count_coverage(mask, maps.shape[1:])
        expected = {}
        for index, grid in enumerate(maps):
            if grid.sum() > 0:
                expected[index] = (grid * covered).sum() / grid.sum() - covered.mean()
        order = sorted(expected, key=lambda index: -expected[index])
        assert [item.index for item in ranked] == order
        assert [item.excess for item in ranked] == pytest.approx(
            [expected[i] for i in order], abs=1e-6
        )
        assert ranked[0].expected == pytest.approx(mask.mean())
    answers = explanation.rank_tokens(image, mask=holes, role="answer")
    assert [item.index for item in answers] == [i.index for i in ranked if i.token.role == "answer"]


def test_looking_everywhere_alike_exceeds_nothing(explanation):
    """The uniform expectation is subtracted: a whole picture tells nothing."""
    height, width = explanation.images[0].shape[:2]
    for item in explanation.rank_tokens(0, box=(0, 0, width, height)):
        assert item.share == pytest.approx(1) and item.excess == pytest.approx(0)


@pytest.mark.parametrize(
    ("region", "error", "message"),
    [
        ({}, ValueError, "give one region"),
        ({"box": (0, 0, 5, 5), "mask": np.ones((2, 2), bool)}, ValueError, "give one region"),
        ({"box": (9, 9, 9, 20)}, ValueError, "is empty: x0 < x1 and y0 < y1"),
        ({"box": (30, 9, 20, 20)}, ValueError, "is empty"),
        ({"box": (-50, 0, -1, 20)}, ValueError, "lies outside the picture, which is .* px wide"),
        ({"box": (0, 5000, 20, 6000)}, ValueError, "lies outside the picture"),
        ({"box": (0, 0, float("nan"), 5)}, ValueError, "give four finite numbers"),
        ({"box": (0, 0, 5)}, ValueError, "give four finite numbers"),
        ({"mask": np.ones((3, 4), bool)}, ValueError, r"of size \(3, 4\), the picture of size"),
        ({"mask": np.ones((3, 4))}, TypeError, "the mask holds float64: give bool"),
        ({"image": 2, "box": (0, 0, 5, 5)}, ValueError, "no picture 2: this conversation has 2"),
        ({"image": -1, "box": (0, 0, 5, 5)}, ValueError, "no picture -1"),
    ],
)
def test_wrong_regions_say_so(explanation, region, error, message):
    with pytest.raises(error, match=message):
        explanation.rank_tokens(**region)


def test_an_empty_mask_says_so(explanation):
    with pytest.raises(ValueError, match="the mask is empty"):
        explanation.rank_tokens(0, mask=np.zeros(explanation.images[0].shape[:2], bool))


def test_an_object_is_looked_at_by_its_own_words(tell):
    """Learned, not built in: the mask of an object ranks its words above those of the others.

    Of a ranking that knows nothing, the mean share of pairs in the right order is one half.
    """
    right = []
    for seed in range(100, 112):
        described = describe(seed)
        explanation = explain(tell(described))
        named = [
            {
                index
                for index, token in enumerate(explanation.tokens)
                if token.role == "answer" and token.span[0] < end and token.span[1] > start + 1
            }
            for start, end in described.spans
        ]
        for own, mask in zip(named, described.masks):
            excess = {i.index: i.excess for i in explanation.rank_tokens(0, mask=mask)}
            others = set().union(*named) - own
            right.append(np.mean([excess[a] > excess[b] for a in own for b in others]))
    assert len(right) > 30
    assert np.mean(right) > 0.7
