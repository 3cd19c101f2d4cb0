"""Batches for the tiny reader: pixels as patches, and turns packed behind one prefix.

In: stored scenes and their turns. Out: tensors for ``fast_forward``. Many turns continue one
picture's prefix side by side, none seeing another, as in ``FrozenVLM.attend``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flmm.toy.architecture import MERGE, PATCH, TOKEN_SIDE_PX
from flmm.toy.text import PROMPT, Turn


class PatchedPixels:
    """Turns stored uint8 pictures of one grid into the processor's normalised patches."""

    def __init__(self, processor) -> None:
        image_processor = processor.image_processor
        self.mean = torch.tensor(image_processor.image_mean) * 255
        self.std = torch.tensor(image_processor.image_std) * 255

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """uint8 ``[N, H', W', 3]`` to float32 ``[N, patches, C * p * p]``."""
        batch, height, width, _ = pixels.shape
        normal = ((torch.from_numpy(pixels).float() - self.mean) / self.std).permute(0, 3, 1, 2)
        rows, columns = height // TOKEN_SIDE_PX, width // TOKEN_SIDE_PX
        cut = normal.reshape(batch, 3, rows, MERGE, PATCH, columns, MERGE, PATCH)
        return cut.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(batch, -1, 3 * PATCH * PATCH)


@dataclass
class PackedBatch:
    """Prefixes of one grid, each followed by isolated turns.

    ``predictors[i]`` is the flat row (in ``[B * S]``) whose output must predict ``targets[i]``;
    ``kinds[i]`` names the phrase kind where the target is the first token after a phrase.
    """

    input_ids: Tensor
    position_ids: Tensor
    visible: Tensor
    predictors: Tensor
    targets: Tensor
    kinds: list[tuple[int, str]]


class TurnPacker:
    """Builds :class:`PackedBatch` from scenes' turns."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer
        message = [{"type": "image"}, {"type": "text", "text": PROMPT}]
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=False
        )
        before, after = rendered.split("<|image_pad|>")
        self.before, self.after = self._encode(before), self._encode(after)
        self.image_pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.pad = tokenizer.pad_token_id
        self._cache: dict[str, list[int]] = {}

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def encode(self, text: str) -> list[int]:
        """Token ids of a turn's text; texts repeat, so they are kept."""
        if text not in self._cache:
            self._cache[text] = self._encode(text)
        return self._cache[text]

    def pack(self, turns: list[list[Turn]], grid: tuple[int, int]) -> PackedBatch:
        """``turns[b]`` continue picture ``b``; every picture has the same ``grid`` (h, w)."""
        image_tokens = grid[0] * grid[1]
        prefix = self.before + [self.image_pad] * image_tokens + self.after
        start = len(prefix)
        rows = [[(turn, [*self.encode(turn.text), self.end]) for turn in group] for group in turns]
        length = start + max(sum(len(ids) for _, ids in row) for row in rows)
        shape = (len(rows), length)
        input_ids = np.full(shape, self.pad)
        groups, offsets = np.full(shape, -1), np.zeros(shape, np.int64)
        predictors: list[int] = []
        targets: list[int] = []
        kinds: list[tuple[int, str]] = []
        for b, row in enumerate(rows):
            input_ids[b, :start], groups[b, :start] = prefix, 0
            cursor = start
            for number, (turn, ids) in enumerate(row, start=1):
                end = cursor + len(ids)
                input_ids[b, cursor:end], groups[b, cursor:end] = ids, number
                offsets[b, cursor:end] = np.arange(len(ids))
                if turn.phrase:
                    kinds.append((len(targets) + len(self.encode(turn.phrase)), turn.kind))
                previous = [start - 1, *range(cursor, end - 1)]
                predictors += [b * length + place for place in previous]
                targets += ids
                cursor = end
        return PackedBatch(
            torch.from_numpy(input_ids),
            self._build_positions(grid, start, offsets),
            _build_visible(torch.from_numpy(groups)),
            torch.tensor(predictors),
            torch.tensor(targets),
            kinds,
        )

    def _build_positions(self, grid: tuple[int, int], start: int, offsets: np.ndarray) -> Tensor:
        """M-RoPE positions ``[3, B, S]``; every turn starts right after the prefix."""
        (rows, columns), first = grid, len(self.before)
        prefix = np.zeros((3, start), np.int64)
        prefix[:, :first] = np.arange(first)
        image = slice(first, first + rows * columns)
        prefix[0, image] = first
        prefix[1, image] = first + np.repeat(np.arange(rows), columns)
        prefix[2, image] = first + np.tile(np.arange(columns), rows)
        prefix[:, image.stop :] = first + max(grid) + np.arange(start - image.stop)
        positions = np.broadcast_to(offsets + prefix[0, -1] + 1, (3, *offsets.shape)).copy()
        positions[:, :, :start] = prefix[:, None]
        return torch.from_numpy(positions)


def _build_visible(groups: Tensor) -> Tensor:
    """bool ``[B, 1, S, S]``: causal; a turn sees the prefix (group 0) and itself."""
    causal = torch.ones(groups.shape[1], groups.shape[1], dtype=torch.bool).tril()
    same = groups[:, :, None] == groups[:, None, :]
    return (causal & (same | (groups[:, None, :] == 0)))[:, None]
