"""The positions of Qwen-VL's tokens by the published rule, to compare transformers' with.

In: token ids that hold still pictures. Out: positions on the axes time, height, width. Some
releases of transformers computed others, and a wrong position gives a wrong map in silence.
Not its duty: videos.

Source: arXiv 2409.12191, section 2.1 (M-RoPE), and the code released with the models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers
from torch import Tensor


def compute_positions(
    input_ids: Sequence[int], image_token_id: int, grids: Sequence[tuple[int, int]]
) -> Tensor:
    """Text counts up by one on all axes, and starts right behind the greatest position before it.

    A picture's tokens stand at the start in time, at start + row, at start + column.

    Args:
        input_ids: S tokens, image placeholders expanded.
        image_token_id: the placeholder.
        grids: (h, w) of each picture in image tokens, in order.

    Returns:
        int64 ``[3, S]``.
    """
    parts: list[Tensor] = []
    place = start = 0
    for height, width in grids:
        first = input_ids.index(image_token_id, place)
        parts.append(torch.arange(start, start + first - place).expand(3, -1))
        start += first - place
        cells = torch.zeros(3, height, width, dtype=torch.int64)
        cells[1], cells[2] = torch.arange(height)[:, None], torch.arange(width)
        parts.append(start + cells.flatten(1))
        start += max(height, width)
        place = first + height * width
    parts.append(torch.arange(start, start + len(input_ids) - place).expand(3, -1))
    return torch.cat(parts, dim=1)


def check_positions(positions: Tensor, expected: Tensor) -> None:
    """Refuse positions that the models were not trained with.

    Args:
        positions: int64 ``[3, S]``, as transformers computes them.
        expected: as :func:`compute_positions` does.

    Raises:
        RuntimeError: they differ.
    """
    if not torch.equal(positions, expected):
        differ = (positions != expected).any(0)
        raise RuntimeError(
            f"transformers {transformers.__version__} places {int(differ.sum())} of "
            f"{len(differ)} tokens elsewhere than the published rule, so that every map would be "
            "wrong: install another release (5.3.0 to 5.5.3 are known to be wrong)"
        )


__all__ = ["check_positions", "compute_positions"]
