"""What the tiny reader learns from: drawn scenes by grid, turns on them, and batches of both.

A turn is a phrase followed at once by what only the pixels can tell (where the object is, how it
looks), so that the reader has to look at the object while it says the phrase. The place is said in
words (``top left``) or as two digits, column and row: the toy's version of Qwen's box tokens.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from flmm.toy.reader_families import ReaderFamily, find_family
from flmm.toy.shape_captions import write_list
from flmm.toy.shape_sentences import draw_sentence
from flmm.toy.shapes import (
    COLORS,
    SHAPES,
    SIZES,
    Scene,
    draw_in_processes,
    render_scene,
)

PROMPT = "Please give me a description of the image."
_GRID_SIDE = 10
_MIN_COVERAGE = 0.15  # share of a token's area that makes it the object's
_BLOCK = 250  # scenes drawn from one source of randomness


@dataclass(eq=False)
class GridScenes:
    """All scenes of one grid, without the objects' masks.

    Attributes:
        cells: int8 ``[N, h, w, 3]``, see :func:`label_cells`; for the vision warm-up only.
    """

    scenes: list[Scene]
    cells: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)


@dataclass(frozen=True)
class Turn:
    """One continuation after the prefix.

    Attributes:
        text: what the reader learns to say.
        phrase: the referring phrase it opens with, "" for a caption.
        kind: the phrase's kind, see ``list_sentences``.
    """

    text: str
    phrase: str = ""
    kind: str = "caption"


@dataclass
class PackedBatch:
    """Prefixes of one grid, each followed by isolated turns.

    Attributes:
        inputs: of the model: ``input_ids`` [B, S], ``position_ids`` [B, S] or [3, B, S],
            ``attention_mask`` [B, 1, S, S] (0 where a row sees a column), and the pictures.
        predictors: int ``[N]``, the flat rows (in ``[B * S]``) whose output predicts a token.
        targets: int ``[N]``, these tokens.
        kinds: (place among the targets, kind of phrase) of the first token after each phrase.
    """

    inputs: dict[str, Tensor]
    predictors: Tensor
    targets: Tensor
    kinds: list[tuple[int, str]]


def draw_scenes(family: ReaderFamily, count: int, workers: int) -> list[GridScenes]:
    """``count`` scenes by grid, in the order of the grids' names; the same at every call."""
    sizes = [min(_BLOCK, count - start) for start in range(0, count, _BLOCK)]
    jobs, by_grid = [(family, *job) for job in enumerate(sizes)], defaultdict(list)
    for block in draw_in_processes(_draw_block, jobs, workers, "block"):
        for item in block:
            by_grid[item[1].shape[:2]].append(item)
    pool = []
    for grid in sorted(by_grid, key=lambda grid: f"{grid[0]}x{grid[1]}."):
        scenes, cells = zip(*by_grid.pop(grid))
        pool.append(GridScenes(list(scenes), np.stack(cells)))
        print(f"{grid[0]} x {grid[1]} image tokens: {len(scenes)} scenes")
    return pool


def _draw_block(job: tuple[ReaderFamily, int, int]) -> list[tuple[Scene, np.ndarray]]:
    family, index, count = job
    rng, block = random.Random(f"{family.scenes} {index}"), []
    for _ in range(count):
        scene = render_scene(rng)
        cells = label_cells(scene, family.compute_token_grid(scene.image_size))
        for item in scene.objects:
            item.mask = np.zeros((0, 0), bool)
        block.append((scene, cells))
    return block


def label_cells(scene: Scene, grid: tuple[int, int]) -> np.ndarray:
    """int8 ``[h, w, 3]``: 1 + index of colour, shape and size of the covering object, else 0."""
    labels = np.zeros((*grid, 3), np.int8)
    best = np.full(grid, _MIN_COVERAGE, np.float32)
    for item in scene.objects:
        mask = item.mask.astype(np.float32)
        coverage = cv2.resize(mask, grid[::-1], interpolation=cv2.INTER_AREA)
        indices = list(COLORS).index(item.color), SHAPES.index(item.shape), SIZES.index(item.size)
        won = coverage >= best
        labels[won] = np.add(indices, 1)
        best = np.where(won, coverage, best)
    return labels


def write_turns(rng: random.Random, scene: Scene, count: int = 8) -> list[Turn]:
    """``count`` referring turns, objects in turn, and in a third of the scenes a caption."""
    turns = write_referring_turns(rng, scene, count)
    if rng.random() < 0.35 or not turns:
        turns.append(Turn(write_list(rng, scene)[0]))
    return turns


def write_referring_turns(rng: random.Random, scene: Scene, count: int) -> list[Turn]:
    """``count`` referring turns, kinds drawn evenly; fewer where no word tells an object apart."""
    items = list(scene.objects)
    rng.shuffle(items)
    turns: list[Turn] = []
    for index in range(count):
        item = items[index % len(items)]
        sentence = draw_sentence(rng, scene, item)
        if sentence is not None:
            phrase = f"the {sentence.text}" if rng.random() < 0.5 else sentence.text
            if rng.random() < 0.7:
                row, column = item.cell(scene.image_size, _GRID_SIDE)
                where = f"{column}{row}"
            else:
                where = f" {' '.join(item.place(scene.image_size))}"
            look = item.name("size", "color", "shape")
            turns.append(Turn(f"{phrase}{where} {look}", phrase, sentence.kind))
    return turns


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
    """Pictures uint8 ``[H, W, 3]`` of one grid; ``turns[b]`` continue picture ``b``'s prefix side
    by side, none seeing another, as in ``FrozenVLM.attend``."""
    family, tokenizer = find_family(model), processor.tokenizer
    prefix, end = encode_prefixes(processor, images), tokenizer.eos_token
    batch, start = prefix["input_ids"].shape
    texts = [[tokenizer.encode(f"{turn.text}{end}") for turn in group] for group in turns]
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
    placed = family.locate(model, prefix)
    positions = placed[..., -1:] + 1 + offsets  # every turn starts right after the prefix
    positions[..., :start] = placed
    inputs = {
        "input_ids": input_ids,
        "position_ids": positions,
        "attention_mask": _build_mask(groups),
        **{name: prefix[name] for name in family.picture_inputs},
    }
    return PackedBatch(inputs, torch.tensor(predictors), torch.tensor(targets), kinds)


def _build_mask(groups: Tensor) -> Tensor:
    """``[B, 1, S, S]``, added to scores: causal; a turn sees the prefix (group 0) and itself."""
    causal = torch.ones(groups.shape[1], groups.shape[1], dtype=torch.bool).tril()
    same = groups[:, :, None] == groups[:, None, :]
    visible = causal & (same | (groups[:, None, :] == 0))
    hidden = torch.finfo(torch.bfloat16).min
    return torch.zeros(visible.shape).masked_fill(~visible, hidden)[:, None]
