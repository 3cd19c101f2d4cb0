"""What the browser gets, read back with Pillow."""

from __future__ import annotations

import numpy as np
from PIL import Image

from flmm.apps.web.views import SPOTLIGHT, TINT, encode_heat
from flmm.results import encode_areas, encode_page_picture
from tests.web.page_requests import decode_alpha, decode_image

MASK = np.zeros((90, 140), bool)
MASK[20:60, 30:100] = True


def test_tint_and_spotlight_follow_the_mask() -> None:
    tint = decode_alpha(encode_areas(MASK, (255, 0, 0), TINT))
    spotlight = decode_alpha(encode_areas(MASK, (255, 0, 0), SPOTLIGHT))
    assert tint.shape == MASK.shape and (tint > 0).tolist() == MASK.tolist()
    assert (spotlight[~MASK] > 120).all()
    assert spotlight[40, 65] < 60 and tint[40, 65] < 120
    assert tint[20, 65] == spotlight[20, 65] == 255  # the rim
    colors = np.asarray(decode_image(encode_areas(MASK, (255, 0, 0), TINT)).convert("RGBA"))
    assert (colors[MASK][:, :3] == (255, 0, 0)).all()


def test_empty_and_full_masks_are_drawn() -> None:
    empty, full = np.zeros((5, 1), bool), np.ones((5, 1), bool)
    assert (decode_alpha(encode_areas(empty, (1, 2, 3), TINT)) == 0).all()
    assert (decode_alpha(encode_areas(full, (1, 2, 3), TINT)) > 0).all()


def test_heat_is_strongest_where_the_map_is() -> None:
    heat_map = np.zeros((6, 9))
    heat_map[4, 2] = 0.3
    alpha = decode_alpha(encode_heat(heat_map, (600, 900)))
    assert max(alpha.shape) == 256
    row, column = np.unravel_index(alpha.argmax(), alpha.shape)
    assert int(row * 6 / alpha.shape[0]) == 4 and int(column * 9 / alpha.shape[1]) == 2


def test_an_even_map_and_a_pixel_are_drawn() -> None:
    alpha = decode_alpha(encode_heat(np.full((3, 3), 0.5), (1, 1)))
    assert alpha.shape == (1, 1)


def test_small_pictures_are_sent_without_loss_and_large_ones_as_jpeg() -> None:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(decode_image(encode_page_picture(small))), np.asarray(small))
    large = decode_image(encode_page_picture(Image.new("RGB", (1000, 800), (40, 90, 200))))
    assert large.format == "JPEG" and large.size == (1000, 800)
