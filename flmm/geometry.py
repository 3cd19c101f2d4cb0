"""Every resize, pad and crop between frames; no other room computes a size or a scale.

Frames, all (h, w), row first, pixel edges (not centres) aligned:
    original   H  W    the picture as given
    input      H' W'   what the VLM sees: resized (each side by its own factor), maybe padded
    grid       h  w    one cell per image token; covers its box, in original pixels
    mask grid  h' w'   output of the mask head; covers the finest grid's box until
                       ``fit_to_picture``
    SAM        s  s    longest side resized to ``s``, padded at right and bottom
Boxes are xyxy in pixel edges: right and bottom exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flmm.records import Box, Grid, ImageInput

Size = tuple[int, int]


def resample_area(
    maps: Tensor, box: Box, new_box: Box, size: Size, fill: float | Tensor = 0.0
) -> Tensor:
    """Maps over one frame as maps over another: each cell takes the mean of what it covers.

    Args:
        maps: ``[..., h, w]`` floats over ``box``.
        box: (x0, y0, x1, y1), in any unit that ``new_box`` shares.
        new_box: what the result covers.
        size: (h', w') of the result.
        fill: value of cells that ``box`` does not touch, ``[...]`` or a number.

    Returns:
        ``[..., h', w']`` in the dtype of ``maps``; a cell that ``box`` covers in part takes the
        mean over that part.
    """
    if tuple(maps.shape[-2:]) == tuple(size) and box == new_box:
        return maps
    x_weights = _compute_overlaps(box[0::2], maps.shape[-1], new_box[0::2], size[1]).to(maps.device)
    y_weights = _compute_overlaps(box[1::2], maps.shape[-2], new_box[1::2], size[0]).to(maps.device)
    means = y_weights @ maps.float() @ x_weights.T
    touched = y_weights.any(1)[:, None] & x_weights.any(1)
    value = torch.as_tensor(fill, device=maps.device, dtype=means.dtype)[..., None, None]
    return torch.where(touched, means, value).to(maps.dtype)


def join_grid_maps(grid_maps: Sequence[Tensor], grids: Sequence[Grid], num_grids: int) -> Tensor:
    """What a mask head is given, over the box of the finest grid: ``[P, num_grids * L*A, h, w]``.

    Args:
        grid_maps: per grid ``[P, L*A, h_g, w_g]``.
        grids: of the picture, finest first.
        num_grids: 1: the finest alone; 2: then the coarsest (of a picture with one grid, again
            that one), so that there are as many channels for every picture.
    """
    if num_grids == 1:
        return grid_maps[0]
    fine, coarse = grids[0], grids[-1]
    return torch.cat(
        [grid_maps[0], resample_area(grid_maps[-1], coarse.box, fine.box, fine.size)], dim=1
    )


def merge_grids(grid_maps: Sequence[Tensor], image: ImageInput) -> Tensor:
    """All attention on a picture, that on its tiles and on its thumbnail alike, as one map.

    A cell of a coarser grid gives its weight to the finest grid's cells by the area they share.
    ``[..., h_g, w_g]`` of each grid, finest first, to ``[..., h, w]`` over the picture as given.
    """
    fine, merged = image.grids[0], grid_maps[0]
    for maps, grid in zip(grid_maps[1:], image.grids[1:]):
        density = resample_area(maps, grid.box, fine.box, fine.size)
        merged = merged + density * (_compute_cell_area(fine) / _compute_cell_area(grid))
    return fit_to_picture(merged, fine.box, image.original_size)


def _compute_cell_area(grid: Grid) -> float:
    x0, y0, x1, y1 = grid.box
    return (x1 - x0) * (y1 - y0) / grid.columns.numel()


def fit_to_picture(
    maps: Tensor, box: Box, original_size: Size, fill: float | Tensor = 0.0
) -> Tensor:
    """Maps ``[..., h', w']`` over a grid's box as maps over the whole picture, of cells as large.

    ``fill`` is of cells that the model did not see, as in :func:`resample_area`.
    """
    height, width = original_size
    whole = (0.0, 0.0, float(width), float(height))
    if box == whole:
        return maps
    rows = max(1, round(maps.shape[-2] * height / (box[3] - box[1])))
    columns = max(1, round(maps.shape[-1] * width / (box[2] - box[0])))
    return resample_area(maps, box, whole, (rows, columns), fill)


def _compute_overlaps(
    edge: tuple[float, ...], cells: int, new_edge: tuple[float, ...], new_cells: int
) -> Tensor:
    """Float32 ``[new_cells, cells]``: the share of each cell in each new one; sums 1 or 0."""
    old = torch.linspace(edge[0], edge[1], cells + 1, dtype=torch.float64)
    new = torch.linspace(new_edge[0], new_edge[1], new_cells + 1, dtype=torch.float64)
    first = torch.maximum(old[:-1], new[:-1, None])
    overlaps = (torch.minimum(old[1:], new[1:, None]) - first).clamp(min=0)
    covered = overlaps.sum(1, keepdim=True)
    # Edges that should meet may miss each other by rounding: that is no overlap.
    least = 1e-9 * (new_edge[1] - new_edge[0])
    return torch.where(covered > least, overlaps / covered.clamp(min=least), 0).float()


def resize_maps(maps: Tensor, size: Size) -> Tensor:
    """Bilinear resize of ``[..., h, w]`` floats to ``size``, computed in float32.

    Edges are aligned (``align_corners=False``), so that a map over a frame stays over it.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    flat = maps.reshape(-1, 1, *maps.shape[-2:]).float()
    resized = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    return resized.to(maps.dtype).reshape(*maps.shape[:-2], *size)


def resize_masks(masks: Tensor, size: Size) -> Tensor:
    """Resize bool masks ``[P, H, W]`` to ``size``: each cell takes the pixel at its centre.

    F-LMM takes each cell's top left pixel (``F.interpolate``'s "nearest"), which moves its true
    masks, and the coarse masks that learn from them, by half a cell to the right and down.
    """
    return F.interpolate(masks[:, None].float(), size=size, mode="nearest-exact")[:, 0] > 0.5


def compute_coverage(masks: Tensor, size: Size) -> Tensor:
    """Share of each cell of a grid that bool masks ``[P, H, W]`` cover: float32 in [0, 1].

    Pixels across a border count by their area.
    """
    frame = (0.0, 0.0, 1.0, 1.0)
    # A hair less or more than all of a cell is rounding.
    return resample_area(masks.float(), frame, frame, size).clamp(0, 1)


def compute_boxes_xyxy(masks: Tensor) -> Tensor:
    """The tight box of each bool mask ``[P, H, W]``, float32 ``[P, 4]``: NaN where it is empty."""
    if masks.shape[0] == 0:
        return masks.new_zeros((0, 4), dtype=torch.float32)
    columns, rows = masks.any(1), masks.any(2)

    def first_and_past_last(line: Tensor) -> tuple[Tensor, Tensor]:
        first = line.float().argmax(1)
        return first, line.shape[1] - line.flip(1).float().argmax(1)

    (x0, x1), (y0, y1) = first_and_past_last(columns), first_and_past_last(rows)
    boxes = torch.stack([x0, y0, x1, y1], 1).float()
    return boxes.masked_fill(~columns.any(1)[:, None], float("nan"))


def place_region(region: Box, resized: Size, original_size: Size) -> Box:
    """A region of a picture resized to (H', W') in pixels of the picture as given, (H, W)."""
    (height, width), (resized_height, resized_width) = original_size, resized
    x0, x1 = (x * width / resized_width for x in region[0::2])
    y0, y1 = (y * height / resized_height for y in region[1::2])
    return x0, y0, x1, y1


def scale_boxes(boxes_xyxy: Tensor, from_size: Size, to_size: Size) -> Tensor:
    """Move boxes ``[P, 4]`` from a frame of ``from_size`` (h, w) to one of ``to_size``."""
    x_scale, y_scale = to_size[1] / from_size[1], to_size[0] / from_size[0]
    return boxes_xyxy * boxes_xyxy.new_tensor([x_scale, y_scale, x_scale, y_scale])


def find_box_cells(boxes_xyxy: Tensor, original_size: Size, size: Size) -> Tensor:
    """Bool ``[N, *size]``: which cells over a picture its boxes ``[N, 4]`` touch."""
    boxes = scale_boxes(boxes_xyxy, original_size, size)[..., None]
    columns, rows = (torch.arange(side, device=boxes.device) for side in size[::-1])
    in_columns = (boxes[:, 0] < columns + 1) & (columns < boxes[:, 2])
    in_rows = (boxes[:, 1] < rows + 1) & (rows < boxes[:, 3])
    return in_rows[:, :, None] & in_columns[:, None]


def compute_sam_input_size(original_size: Size, image_size: int) -> Size:
    """(h, w) in SAM's frame of a picture whose longest side becomes ``image_size``.

    Source: segment_anything.utils.transforms.ResizeLongestSide.get_preprocess_shape; deviation:
    a side never falls below one pixel.
    """
    scale = image_size / max(original_size)
    height, width = (max(1, int(side * scale + 0.5)) for side in original_size)
    return height, width


def pad_to_square(maps: Tensor, size: int, value: float | Tensor = 0.0) -> Tensor:
    """Pad ``[..., h, w]`` at the right and the bottom to ``[..., size, size]``."""
    height, width = maps.shape[-2:]
    padded = maps.new_zeros(*maps.shape[:-2], size, size) + value
    padded[..., :height, :width] = maps
    return padded
