"""Batches for the tiny reader: turns packed behind the prefix of their picture.

Many turns continue one picture's prefix side by side, none seeing another, as in
``FrozenVLM.attend``. In: pictures of one grid and their turns. Out: what the model's own forward
takes, and which outputs must predict which tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flmm.toy.text import PROMPT, Turn


@dataclass
class PackedBatch:
    """Prefixes of one grid, each followed by isolated turns.

    Attributes:
        inputs: of the model: ``input_ids`` [B, S], ``position_ids`` [3, B, S], ``attention_mask``
            bool [B, 1, S, S] (True where a row sees a column), ``pixel_values``,
            ``image_grid_thw``.
        predictors: int ``[N]``, the flat rows (in ``[B * S]``) whose output predicts a token.
        targets: int ``[N]``, these tokens.
        kinds: (place among the targets, kind of phrase) of the first token after each phrase.
    """

    inputs: dict[str, Tensor]
    predictors: Tensor
    targets: Tensor
    kinds: list[tuple[int, str]]


def encode_prefixes(processor: Any, images: Sequence[np.ndarray]) -> Mapping[str, Tensor]:
    """What the processor makes of pictures (uint8 ``[H, W, 3]``, of one grid) and the prompt."""
    message = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=False
    )
    return processor(images=list(images), text=[text] * len(images), return_tensors="pt")


def pack_turns(
    model: Any, processor: Any, images: Sequence[np.ndarray], turns: Sequence[Sequence[Turn]]
) -> PackedBatch:
    """Pictures uint8 ``[H, W, 3]`` of one grid; ``turns[b]`` continue picture ``b``."""
    prefix, tokenizer = encode_prefixes(processor, images), processor.tokenizer
    batch, start = prefix["input_ids"].shape
    texts = [[tokenizer.encode(f"{turn.text}<|im_end|>") for turn in group] for group in turns]
    length = start + max(sum(map(len, row)) for row in texts)
    input_ids = torch.full((batch, length), tokenizer.pad_token_id)
    input_ids[:, :start] = prefix["input_ids"]
    groups, offsets = torch.full((batch, length), -1), torch.zeros(batch, length, dtype=torch.int64)
    groups[:, :start] = 0
    predictors: list[int] = []
    targets: list[int] = []
    kinds: list[tuple[int, str]] = []
    for b, (row, group) in enumerate(zip(texts, turns)):
        cursor = start
        for number, (ids, turn) in enumerate(zip(row, group), start=1):
            place = slice(cursor, cursor + len(ids))
            input_ids[b, place], groups[b, place] = torch.tensor(ids), number
            offsets[b, place] = torch.arange(len(ids))
            if turn.phrase:
                kinds.append((len(targets) + len(tokenizer.encode(turn.phrase)), turn.kind))
            before = [start - 1, *range(cursor, place.stop - 1)]
            predictors += [b * length + column for column in before]
            targets += ids
            cursor = place.stop
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw")
    placed, _ = model.model.get_rope_index(**{name: prefix[name] for name in names})
    positions = placed[:, :, -1:] + 1 + offsets  # every turn starts right after the prefix
    positions[:, :, :start] = placed
    inputs = {
        "input_ids": input_ids,
        "position_ids": positions,
        "attention_mask": _build_visible(groups),
        "pixel_values": prefix["pixel_values"],
        "image_grid_thw": prefix["image_grid_thw"],
    }
    return PackedBatch(inputs, torch.tensor(predictors), torch.tensor(targets), kinds)


def _build_visible(groups: Tensor) -> Tensor:
    """bool ``[B, 1, S, S]``: causal; a turn sees the prefix (group 0) and itself."""
    causal = torch.ones(groups.shape[1], groups.shape[1], dtype=torch.bool).tril()
    same = groups[:, :, None] == groups[:, None, :]
    return (causal & (same | (groups[:, None, :] == 0)))[:, None]
