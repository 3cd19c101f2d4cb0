"""Drawing: the outside of a mask stays as it was, sizes and texts fit."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flmm import visualization
from flmm.apps.demo import draw_panels
from flmm.results import GroundingResult


def draw_image(size=(60, 90)):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def make_result(size=(60, 90), phrases=("the red circle", "a dog")):
    rows, columns = np.mgrid[: size[0], : size[1]]
    inside = (rows > 0.3 * size[0]) & (rows < 0.7 * size[0])
    inside &= (columns > 0.4 * size[1]) & (columns < 0.8 * size[1])
    masks = np.zeros((len(phrases), *size), dtype=bool)
    masks[0] = inside
    maps = np.random.default_rng(1).random((len(phrases), 12, 5, 7)).astype(np.float32)
    return replace(
        GroundingResult.from_masks(phrases, masks, np.linspace(0.9, 0.1, len(phrases))),
        coarse_mask_logits=np.where(masks, 2.0, -2.0).astype(np.float32),
        attention_maps=maps,
    )


def test_overlay_touches_the_inside_only():
    image, mask = draw_image(), make_result().masks[0]
    before = image.copy()
    drawn = visualization.overlay_mask(image, mask, (255, 0, 0))
    assert np.array_equal(image, before)
    assert np.array_equal(drawn[~mask], image[~mask])
    assert (drawn[mask][:, 0].astype(int) >= image[mask][:, 0]).all()
    assert tuple(drawn[mask][0]) == (255, 0, 0), "the rim is opaque"
    assert drawn.dtype == np.uint8
    with pytest.raises(ValueError, match=r"mask of size \(4, 4\) does not fit"):
        visualization.overlay_mask(image, np.zeros((4, 4), bool), (255, 0, 0))


def test_colors_rise_with_the_map():
    heat = np.linspace(3.0, 9.0, 12).reshape(1, 12)
    colors = visualization.colorize_map(heat, (10, 240))
    assert colors.shape == (10, 240, 3)
    lightness = colors[5].astype(int).sum(1)
    assert (np.diff(lightness) >= -3).all()
    assert lightness[-1] > lightness[0] + 400
    flat = visualization.colorize_map(np.full((3, 3), 0.2), (6, 6))
    assert (flat == flat[0, 0]).all()


def test_merging_prefers_channels_that_favour_the_mask():
    mask = np.zeros((10, 10), dtype=bool)
    mask[:5] = True
    top, bottom = np.zeros((4, 4)), np.zeros((4, 4))
    top[:2], bottom[2:] = 1, 1
    maps = np.stack([bottom, top, bottom, 100 * top])
    merged = visualization.merge_channels(maps, mask, best=2)
    assert merged[:2].min() > 0 and merged[2:].max() == 0
    everything = visualization.merge_channels(maps, np.zeros_like(mask))
    assert np.allclose(everything, 1 / 16)


@pytest.mark.parametrize("size", [(60, 90), (900, 500), (40, 2000), (2000, 30), (1, 1)], ids=str)
def test_panels_have_readable_sizes(size):
    panel = visualization.compute_panel_size(size)
    assert panel[0] <= 480 and panel[1] <= 640
    assert panel[0] >= 224 or panel[1] == 640
    sheet = draw_panels(draw_image(size), make_result(size))
    assert sheet.mode == "RGB"
    assert sheet.height >= 2 * panel[0]
    assert sheet.width >= 4 * max(panel[1], 180)


def test_panels_show_image_box_and_masks():
    image = np.full((240, 240, 3), 128, dtype=np.uint8)
    result = make_result((240, 240), phrases=("a dog",))
    sheet = np.array(draw_panels(Image.fromarray(image), result, ious=[0.5]))
    top = sheet.shape[0] - 240 - 8
    panels = [sheet[top : top + 240, left : left + 240] for left in range(8, 992, 248)]
    color, mask = visualization.get_color(0), result.masks[0]
    assert (panels[0] == color).all(-1).any()
    assert (panels[0][mask][2000] == 128).all()
    assert not (panels[1] == 128).all(-1).all()
    for panel in panels[2:]:
        assert (panel[~mask] == 128).all()
        assert not (panel[mask] == 128).all(-1).any()


def test_titles_take_any_text_and_change_with_the_iou():
    phrases = ("红色的圆 — ∞ 🐕 עברית", "x" * 500, "two\nlines", "")
    result = make_result(phrases=phrases)
    plain = draw_panels(draw_image(), result)
    rated = draw_panels(draw_image(), result, ious=[0.1, 0.2, 0.3, float("nan")])
    assert plain.size == rated.size
    assert plain.tobytes() != rated.tobytes()


def test_refuses_what_it_cannot_draw():
    result = make_result()
    with pytest.raises(ValueError, match="ground with return_maps=True"):
        draw_panels(draw_image(), replace(result, attention_maps=None))
    with pytest.raises(ValueError, match="holds no phrase to draw"):
        draw_panels(draw_image(), replace(result, found=[]))
    with pytest.raises(ValueError, match="got 1 IoUs for 2 phrases"):
        draw_panels(draw_image(), result, ious=[0.5])
