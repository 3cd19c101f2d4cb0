"""Every resize, pad and crop between frames; no other room computes a size or a scale.

Frames, all (h, w), row first, pixel edges (not centres) aligned:
    original   H  W    the picture as given
    input      H' W'   what the VLM sees: resized (each side by its own factor), maybe padded
    grid       h  w    one cell per image token; covers the padded input
    mask grid  h' w'   output of the mask head; covers the padded input until ``crop_padding``
    SAM        s  s    longest side resized to ``s``, padded at right and bottom
Boxes are xyxy in pixel edges: right and bottom exclusive.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flmm.records import Box

Size = tuple[int, int]


def build_meta_data(original_size: Size, input_size: Size) -> dict[str, Any]:
    """The ``meta_data`` of a picture that was resized to ``input_size`` and not padded.

    Args:
        original_size: (H, W) pixels of the picture as given.
        input_size: (H', W') pixels of the VLM input.

    Returns:
        dict with ``image_shape``, ``padded_shape`` and ``original_shape`` (each
        ``{"height", "width"}``), ``padding`` (``before_height``, ``after_height``,
        ``before_width``, ``after_width``, in input pixels) and ``scale_factor``
        ``(H'/H, W'/W)``. Keys as in F-LMM's image processors.
    """
    (height, width), (input_height, input_width) = original_size, input_size
    return {
        "original_shape": {"height": height, "width": width},
        "image_shape": {"height": input_height, "width": input_width},
        "padded_shape": {"height": input_height, "width": input_width},
        "padding": dict.fromkeys(
            ("before_height", "after_height", "before_width", "after_width"), 0
        ),
        "scale_factor": (input_height / height, input_width / width),
    }


def crop_padding(maps: Tensor, meta_data: dict[str, Any]) -> Tensor:
    """Crop maps that cover the padded input to the part that covers the picture.

    Args:
        maps: ``[..., h', w']`` on any grid over the padded input.
        meta_data: as :func:`build_meta_data` gives it.

    Returns:
        ``[..., round(h' * image_h / padded_h), round(w' * image_w / padded_w)]``.

    Source: F-LMM, flmm/models/frozen_deepseek_vl.py (``_forward``), same rounding; deviation: a
    side never falls below one cell.
    """
    padded, image = meta_data["padded_shape"], meta_data["image_shape"]
    if padded == image:
        return maps
    height, width = maps.shape[-2:]
    top = int(meta_data["padding"]["before_height"] * height / padded["height"])
    left = int(meta_data["padding"]["before_width"] * width / padded["width"])
    kept_height = max(1, int(image["height"] * height / padded["height"] + 0.5))
    kept_width = max(1, int(image["width"] * width / padded["width"] + 0.5))
    return maps[..., top : top + kept_height, left : left + kept_width].contiguous()


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
        mean over that part. Rows and columns are weighed one after the other.
    """
    if tuple(maps.shape[-2:]) == tuple(size) and box == new_box:
        return maps
    x_weights = _compute_overlaps(box[0::2], maps.shape[-1], new_box[0::2], size[1]).to(maps.device)
    y_weights = _compute_overlaps(box[1::2], maps.shape[-2], new_box[1::2], size[0]).to(maps.device)
    means = y_weights @ maps.float() @ x_weights.T
    touched = y_weights.any(1)[:, None] & x_weights.any(1)
    value = torch.as_tensor(fill, device=maps.device, dtype=means.dtype)[..., None, None]
    return torch.where(touched, means, value).to(maps.dtype)


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
    """Share of each cell of a coarser grid that a mask covers.

    Args:
        masks: bool ``[P, H, W]``.
        size: (h, w) of the grid; where it does not divide the frame, border pixels count for
            both cells.

    Returns:
        float32 ``[P, h, w]`` in [0, 1].
    """
    return F.adaptive_avg_pool2d(masks[:, None].float(), size)[:, 0]


def compute_boxes_xyxy(masks: Tensor) -> Tensor:
    """The tight box of each mask.

    Args:
        masks: bool ``[P, H, W]``.

    Returns:
        float32 ``[P, 4]`` xyxy, right and bottom exclusive; NaN where a mask is empty.
    """
    if masks.shape[0] == 0:
        return masks.new_zeros((0, 4), dtype=torch.float32)
    columns, rows = masks.any(1), masks.any(2)

    def first_and_past_last(line: Tensor) -> tuple[Tensor, Tensor]:
        first = line.float().argmax(1)
        return first, line.shape[1] - line.flip(1).float().argmax(1)

    (x0, x1), (y0, y1) = first_and_past_last(columns), first_and_past_last(rows)
    boxes = torch.stack([x0, y0, x1, y1], 1).float()
    return boxes.masked_fill(~columns.any(1)[:, None], float("nan"))


def scale_boxes(boxes_xyxy: Tensor, from_size: Size, to_size: Size) -> Tensor:
    """Move boxes ``[P, 4]`` from a frame of ``from_size`` (h, w) to one of ``to_size``."""
    x_scale, y_scale = to_size[1] / from_size[1], to_size[0] / from_size[0]
    return boxes_xyxy * boxes_xyxy.new_tensor([x_scale, y_scale, x_scale, y_scale])


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
