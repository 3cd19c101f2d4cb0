"""Frames: boxes, maps and masks land on the object, whatever the sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils.transforms import ResizeLongestSide

from flmm import geometry
from flmm.masks import SAMRefiner, UNetHead
from flmm.masks.refiners import segment_anything
from flmm.records import Grid

ODD_SIZES = [
    (427, 640),
    (641, 479),
    (333, 500),
    (97, 1001),
    (1023, 211),
    (225, 225),
    (119, 83),
    (59, 61),
    (801, 1203),
    (375, 1242),
]
sides = st.integers(1, 700)
sizes = st.tuples(sides, sides)


@pytest.fixture(scope="module")
def refiner():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_anything, "TINY_WEIGHTS", segment_anything.TINY_WEIGHTS / "absent")
        return SAMRefiner("tiny", use_text=False)


@pytest.fixture(scope="module")
def open_head():
    """A ``UNetHead`` whose network hands its input through: logits are occupancy - 0.5."""
    head = UNetHead(in_channels=1, base_channels=1, normalize_input=False)
    head.compute_features = lambda maps: maps
    torch.nn.init.ones_(head.conv_seg.weight)
    torch.nn.init.constant_(head.conv_seg.bias, -0.5)
    return head


def compute_occupancy(box, frame_size, grid):
    """Covered share of each cell of ``grid`` (h, w) over a frame; ``box`` xyxy in its pixels."""

    def cover(start, stop, length, cells):
        edges = torch.arange(cells + 1) * (length / cells)
        return (edges[1:].clamp(max=stop) - edges[:-1].clamp(min=start)).clamp(min=0) * (
            cells / length
        )

    x0, y0, x1, y1 = box
    rows = cover(y0, y1, frame_size[0], grid[0])
    columns = cover(x0, x1, frame_size[1], grid[1])
    return rows[:, None] * columns[None, :]


def compute_qwen_input_size(size, factor, max_pixels=1280 * 28 * 28):
    """Sides rounded to ``factor``, area at most ``max_pixels``, as the Qwen processors do."""
    shrink = max(1.0, (size[0] * size[1] / max_pixels) ** 0.5)
    return tuple(max(factor, round(side / shrink / factor) * factor) for side in size)


def draw_box(size, cell):
    """A rectangle (x0, y0, x1, y1) px off the cell borders, at least three cells wide."""
    edges = []
    for side, step in ((size[1], cell[1]), (size[0], cell[0])):
        length = min(side, max(3 * step, 0.37 * side))
        start = 0.31 * (side - length)
        edges.append((int(start), int(np.ceil(start + length))))
    (x0, x1), (y0, y1) = edges
    return x0, y0, x1, y1


def check_landing(box, grid_box, original, grid, head, refiner):
    """The rectangle comes back from head, unresize and both prompts, within one cell.

    Args:
        box: of the rectangle, in original pixels.
        grid_box: what the grid covers, in original pixels.
        original: (H, W).
        grid: (h, w).
    """
    frame = grid_box[3] - grid_box[1], grid_box[2] - grid_box[0]
    shifted = np.array(box) - np.array([*grid_box[:2]] * 2)
    maps = compute_occupancy(shifted, frame, grid)[None, None]
    logits = head(maps.float())[:, 0].detach()
    coarse = geometry.fit_to_picture(logits, grid_box, original, logits.amin((-2, -1)))

    # One cell, in original pixels, and a pixel of rounding.
    cell_y, cell_x = frame[0] / grid[0], frame[1] / grid[1]
    tolerance = np.array([cell_x, cell_y] * 2)
    found = geometry.compute_boxes_xyxy(geometry.resize_maps(coarse, original) > 0)[0].numpy()
    assert (np.abs(found - box) <= tolerance + 1).all(), f"{found} for {box}, cell {tolerance}"

    input_size = geometry.compute_sam_input_size(original, 256)
    scale = np.array([input_size[1] / original[1], input_size[0] / original[0]] * 2)
    prompt = refiner.build_box_prompts(coarse, original, input_size)[0].numpy()
    assert (np.abs(prompt - box * scale) <= (tolerance + 1) * scale).all()

    mask = refiner.build_mask_prompts(coarse, input_size)[:, 0] > 0
    found = geometry.compute_boxes_xyxy(mask)[0].numpy() * 256 / mask.shape[-1]
    assert (np.abs(found - box * scale) <= tolerance * scale + 256 / mask.shape[-1]).all()


@pytest.mark.parametrize("factor", [28, 32])
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_mask_box_and_map_land_on_the_object(size, factor, open_head, refiner):
    input_size = compute_qwen_input_size(size, factor)
    grid = input_size[0] // factor, input_size[1] // factor
    box = draw_box(size, (size[0] / grid[0], size[1] / grid[1]))
    check_landing(box, (0.0, 0.0, float(size[1]), float(size[0])), size, grid, open_head, refiner)


@pytest.mark.parametrize("place", ["centre", "after"])
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_padding_of_the_input_is_undone(size, place, open_head, refiner):
    """A square input of 24 x 24 cells, the picture in its middle or at its top left."""
    side, cells = max(size), 24
    y0, x0 = ((side - length) / -2 if place == "centre" else 0.0 for length in size)
    cell = side / cells
    grid_box = (x0, y0, x0 + side, y0 + side)
    check_landing(draw_box(size, (cell, cell)), grid_box, size, (cells, cells), open_head, refiner)


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_what_a_crop_left_out_takes_the_least_logit(size):
    """A square input, the middle of the picture: outside of it nothing was seen."""
    side, cells = min(size), 24
    y0, x0 = ((length - side) / 2 for length in size)
    logits = torch.rand(2, cells, cells)
    least = logits.amin((-2, -1))
    coarse = geometry.fit_to_picture(logits, (x0, y0, x0 + side, y0 + side), size, least)
    cell = side / cells
    for axis in range(2):
        assert abs(coarse.shape[1 + axis] - size[axis] / cell) <= 1
    rows, columns = (
        (torch.arange(length) + 0.5) * full / length for length, full in zip(coarse.shape[1:], size)
    )
    outside = ((rows - size[0] / 2).abs() > side / 2 + cell)[:, None] | (
        (columns - size[1] / 2).abs() > side / 2 + cell
    )
    assert outside.any() == (max(size) - side > 2 * cell)
    for own, value in zip(coarse, least):
        assert (own[outside] == value).all() and (own[~outside] >= value - 1e-6).all()


def test_a_mask_head_gets_as_many_channels_from_one_grid_as_from_two():
    fine = Grid(torch.arange(24).view(4, 6), (0.0, 0.0, 60.0, 40.0))
    coarse = Grid(torch.arange(4).view(2, 2), (-10.0, -10.0, 70.0, 50.0))
    maps = [torch.rand(3, 5, 4, 6), torch.rand(3, 5, 2, 2)]
    joined = geometry.join_grid_maps(maps, [fine, coarse], 2)
    assert joined.shape == (3, 10, 4, 6)
    assert joined[:, :5].equal(maps[0])
    corner = joined[:, 5:, 0, 0]  # wholly within the thumbnail's first cell
    assert torch.allclose(corner, maps[1][:, :, 0, 0])
    alone = geometry.join_grid_maps(maps[:1], [fine], 2)
    assert alone[:, 5:].equal(alone[:, :5])
    assert geometry.join_grid_maps(maps, [fine, coarse], 1) is maps[0]


@settings(deadline=None, max_examples=100)
@given(size=sizes, image_size=st.sampled_from([256, 1024]))
def test_sam_input_size_equals_segment_anything(size, image_size):
    expected = ResizeLongestSide.get_preprocess_shape(*size, image_size)
    found = geometry.compute_sam_input_size(size, image_size)
    assert found == tuple(max(1, side) for side in expected)
    assert max(found) == image_size


@settings(deadline=None, max_examples=100)
@given(size=sizes, data=st.data())
def test_boxes_equal_a_slow_search_and_are_tight(size, data):
    height, width = (min(side, 60) for side in size)
    x0, x1 = sorted(data.draw(st.tuples(*[st.integers(0, width)] * 2)))
    y0, y1 = sorted(data.draw(st.tuples(*[st.integers(0, height)] * 2)))
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, y0:y1, x0:x1] = True
    boxes = geometry.compute_boxes_xyxy(masks)
    assert boxes[1].isnan().all()
    if x0 < x1 and y0 < y1:
        assert boxes[0].tolist() == [x0, y0, x1, y1]
    else:
        assert boxes[0].isnan().all()


@settings(deadline=None, max_examples=100)
@given(first=sizes, second=sizes, data=st.data())
def test_boxes_scale_there_and_back(first, second, data):
    corners = data.draw(st.tuples(*[st.floats(0, 700, width=32)] * 4))
    boxes = torch.tensor([corners])
    there = geometry.scale_boxes(boxes, first, second)
    back = geometry.scale_boxes(there, second, first)
    assert torch.allclose(back, boxes, rtol=1e-5, atol=1e-3)
    whole = torch.tensor([[0.0, 0.0, first[1], first[0]]])
    assert torch.allclose(
        geometry.scale_boxes(whole, first, second),
        torch.tensor([[0.0, 0.0, second[1], second[0]]]),
    )


@settings(deadline=None, max_examples=60)
@given(size=sizes, target=sizes)
def test_resizing_keeps_values_in_range_and_constants(size, target):
    small, large = (tuple(min(side, 90) for side in pair) for pair in (size, target))
    maps = torch.rand(2, 3, *small, generator=torch.Generator().manual_seed(0))
    resized = geometry.resize_maps(maps, large)
    assert resized.shape == (2, 3, *large)
    assert maps.min() - 1e-6 <= resized.min() and resized.max() <= maps.max() + 1e-6
    flat = geometry.resize_maps(torch.full((1, *small), 0.25), large)
    assert torch.allclose(flat, torch.full_like(flat, 0.25))


def test_resize_keeps_the_dtype_and_takes_no_phrases():
    assert geometry.resize_maps(torch.rand(1, 4, 4).bfloat16(), (7, 5)).dtype == torch.bfloat16
    assert geometry.resize_maps(torch.zeros(0, 4, 4), (7, 5)).shape == (0, 7, 5)
    assert geometry.resize_masks(torch.zeros(0, 4, 4, dtype=torch.bool), (7, 5)).shape == (0, 7, 5)
    assert geometry.compute_boxes_xyxy(torch.zeros(0, 4, 4, dtype=torch.bool)).shape == (0, 4)


def test_coverage_is_the_share_of_each_cell():
    masks = torch.zeros(1, 6, 8, dtype=torch.bool)
    masks[0, :3, :2] = True
    coverage = geometry.compute_coverage(masks, (2, 2))
    assert coverage.tolist() == [[[0.5, 0.0], [0.0, 0.0]]]


def test_pads_to_a_square_with_a_value_per_map():
    maps = torch.zeros(2, 3, 5, requires_grad=True)
    padded = geometry.pad_to_square(maps, 6, torch.tensor([-1.0, -2.0])[:, None, None])
    assert padded.shape == (2, 6, 6)
    assert padded[:, -1, -1].tolist() == [-1.0, -2.0]
    padded.sum().backward()
    assert (maps.grad == 1).all()


@pytest.mark.parametrize("size", [(32, 32), (17, 23), (64, 41)])
def test_resized_masks_stay_where_they_are(size):
    """No shift on average: F.interpolate's "nearest" moves masks by half a cell."""
    generator = torch.Generator().manual_seed(0)
    shifts = []
    for _ in range(60):
        y, x = (int(torch.randint(0, 150, (), generator=generator)) for _ in range(2))
        height, width = (int(torch.randint(100, 300, (), generator=generator)) for _ in range(2))
        mask = torch.zeros(1, 480, 640, dtype=torch.bool)
        mask[:, y : y + height, x : x + width] = True
        centre = geometry.resize_masks(mask, size)[0].nonzero().float().mean(0) + 0.5
        true = torch.tensor([(y + height / 2) / 480, (x + width / 2) / 640]) * torch.tensor(size)
        shifts.append(centre - true)
    assert torch.stack(shifts).mean(0).abs().max() < 0.15
