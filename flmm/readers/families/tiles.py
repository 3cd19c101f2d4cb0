"""What families share that see a picture in tiles: one grid over all of them, and where it lies."""

from __future__ import annotations

from torch import Tensor

from flmm.geometry import Size
from flmm.records import Box


def join_tiles(tokens: Tensor, tiles: Size, tile: Size) -> Tensor:
    """Tokens ``[n]`` of (down, across) tiles, one behind the other, as one grid.

    Args:
        tokens: row by row within a tile, and tile by tile.
        tiles: (down, across).
        tile: (h, w) in tokens.

    Returns:
        ``[down * h, across * w]``.
    """
    (down, across), (height, width) = tiles, tile
    rows = tokens.view(down, across, height, width).transpose(1, 2)
    return rows.reshape(down * height, across * width)


def cover_tiles(tiles: Size, tile_px: int, seen_px: int) -> Box:
    """Where the cells of (down, across) square tiles lie, in pixels of all tiles together.

    A tower cuts whole patches from a tile's top left and leaves the rest unseen (6 of 384 px with
    patches of 14). Cells of a single tile lie exactly there; the even cells of several lie at most
    half of that rest from where they are, to either side.

    Args:
        tiles: (down, across).
        tile_px: a tile's side.
        seen_px: how much of it becomes patches.
    """
    (top, bottom), (left, right) = (_cover_line(count, tile_px, seen_px) for count in tiles)
    return left, top, right, bottom


def _cover_line(count: int, tile_px: int, seen_px: int) -> tuple[float, float]:
    if count == 1:
        return 0.0, float(seen_px)
    middle = (tile_px - seen_px) / 2
    return 0.0 - middle, count * tile_px - middle


__all__ = ["cover_tiles", "join_tiles"]
