"""The part of a picture that is looked at again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flmm.apps.visual_cot.chain import compute_crop_box


@st.composite
def boxes(draw):
    """A picture's (H, W) and a box of whole pixels in it."""
    height, width = (draw(st.integers(1, 3000)) for _ in range(2))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    return (height, width), (x0, y0, x1, y1)


@given(boxes(), st.floats(1, 4), st.integers(1, 40))
def test_a_crop_holds_the_box_and_lies_in_the_picture(case, scale, min_side):
    (height, width), box = case
    left, top, right, bottom = compute_crop_box(box, (height, width), scale, min_side)
    assert 0 <= left <= box[0] < box[2] <= right <= width
    assert 0 <= top <= box[1] < box[3] <= bottom <= height
    assert right - left >= min(min_side, width) and bottom - top >= min(min_side, height)
    short, long = sorted((right - left, bottom - top))
    assert long <= 200 * short or short == min(height, width)


@pytest.mark.parametrize(
    ("box", "scale", "expected"),
    [
        ((20, 30, 60, 80), 1.0, (20, 30, 60, 80)),
        ((20, 30, 60, 80), 1.5, (10, 17, 70, 93)),
        ((0, 95, 4, 100), 1.0, (0, 84, 16, 100)),  # moved inwards, not cut
        ((10, 10, 13, 13), 1.0, (4, 4, 20, 20)),
        ((0, 0, 200, 100), 2.0, (0, 0, 200, 100)),
    ],
)
def test_crops_by_hand(box, scale, expected):
    assert compute_crop_box(box, (100, 200), scale, 16) == expected


def test_a_long_thin_box_stays_readable():
    left, top, right, bottom = compute_crop_box((0, 500, 9000, 503), (1000, 9000))
    assert (right - left) / (bottom - top) <= 200 and top <= 500 and bottom >= 503
