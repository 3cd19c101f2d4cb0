"""Training of the tiny reader: a vision warm-up, then language on isolated referring turns.

Stage "vision" gives the tower what a pretrained ViT brings to a real model: a linear probe per
merged token names colour, shape and size of what is there. Stage "language" sees text only:
each picture's prefix is read once and many turns continue it side by side, none seeing another
(the same packing that ``FrozenVLM.attend`` uses), so one picture teaches many phrases. A
training-only probe on the first layers' image tokens asks for row and column (the tower knows
relative places only; without it place words stay at their prior for a long time).
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from flmm.datasets.shapes import COLORS, SHAPES, SIZES, Scene
from flmm.tiny_model.architecture import (
    MERGE,
    PATCH,
    TOKEN_SIDE_PX,
    build_config,
    build_model,
    build_processor,
    build_tokenizer,
)
from flmm.tiny_model.fast_forward import encode_images, read_tokens
from flmm.tiny_model.scene_pool import GridScenes, load_pool
from flmm.tiny_model.text import (
    PROMPT,
    Turn,
    list_vocabulary_corpus,
    write_caption,
    write_referring_turns,
)

LABEL_COUNTS = (len(COLORS) + 1, len(SHAPES) + 1, len(SIZES) + 1)
PLACE_PROBE_LAYER = 1
PROGRESS_EVERY = 50


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


# --- stages ----------------------------------------------------------------------------------


def train_vision(
    pool_folder: Path,
    out: Path,
    steps: int,
    seed: int = 0,
    batch: int = 24,
    start: Path | None = None,
) -> None:
    """Stage "vision": the tower alone, with a linear probe per merged token.

    ``start`` goes on from the result of an earlier vision stage (with a new probe).
    """
    torch.manual_seed(seed)
    rng, pool = random.Random(seed), load_pool(pool_folder)
    if start is None:
        tokenizer = build_tokenizer(list_vocabulary_corpus())
        processor = build_processor(tokenizer)
        model = build_model(build_config(tokenizer), seed)
    else:
        model, processor = load_reader(start)
    tower, patches = model.model.visual, PatchedPixels(processor)
    probe = nn.Linear(model.config.get_text_config().hidden_size, sum(LABEL_COUNTS))
    parameters = [*tower.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=2e-3, weight_decay=0.02, betas=(0.9, 0.98), fused=True
    )
    progress = Progress(steps)
    for step in range(steps):
        set_rate(optimizer, 2e-3, step, steps, warm_up=60)
        scenes = _pick_grid(rng, pool, batch)
        chosen = sorted(rng.sample(range(len(scenes)), batch))
        labels = torch.from_numpy(scenes.cells[chosen]).long().reshape(-1, 3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = encode_images(tower, patches(scenes.pixels[chosen]), scenes.patch_grid)
            logits = probe(states).flatten(0, 1)
        loss, accuracy = _probe_loss(logits.float(), labels)
        update(loss, parameters, optimizer)
        progress.report(step, loss=loss.item(), **accuracy)
    _save(model, processor, out, progress)


def _probe_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    weight = torch.where(labels[:, 0] > 0, 1.0, 0.3)
    covered = labels[:, 0] > 0
    loss, accuracy = logits.new_zeros(()), {}
    names = ("color", "shape", "size")
    for name, part, target in zip(names, logits.split(LABEL_COUNTS, 1), labels.unbind(1)):
        each = F.cross_entropy(part, target, reduction="none")
        loss = loss + (each * weight).sum() / weight.sum() * (0.5 if name == "size" else 1.0)
        accuracy[name] = (part.argmax(1) == target)[covered].float().mean().item()
    return loss, accuracy


def train_language(
    pool_folder: Path, start: Path, out: Path, steps: int, seed: int = 0, batch: int = 24
) -> None:
    """Stage "language": text only. ``start`` holds the result of the stage before."""
    torch.manual_seed(seed)
    rng, pool = random.Random(seed + 1), load_pool(pool_folder)
    model, processor = load_reader(start)
    packer, patches = TurnPacker(processor.tokenizer), PatchedPixels(processor)
    place_probe = PlaceProbe(model.config.get_text_config().hidden_size)
    optimizer = _build_language_optimizer(model, place_probe)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    batches = _iterate_batches(rng, pool, batch, steps)
    progress = Progress(steps)
    model.train()
    for step, (scenes, chosen) in enumerate(batches):
        set_rate(optimizer, 1.5e-3, step, steps, warm_up=60)
        turns = [_write_turns(rng, scenes.scenes[index]) for index in chosen]
        packed = packer.pack(turns, scenes.cells.shape[1:3])
        loss, logits, after_layers = compute_language_loss(
            model, packed, patches(scenes.pixels[chosen]), scenes.patch_grid
        )
        weight = 0.3 if step < 0.3 * steps else 0.1
        place_loss, place_accuracy = place_probe(
            after_layers[PLACE_PROBE_LAYER], packed, packer.image_pad
        )
        update(loss + weight * place_loss, parameters, optimizer)
        after_phrase = _accuracy_after_phrase(logits, packed)
        progress.report(step, loss=loss.item(), row_column=place_accuracy, **after_phrase)
        if step and step % 1000 == 0:
            _save(model, processor, out.with_name(out.name + "_partial"), progress)
    _save(model, processor, out, progress)


def compute_language_loss(
    model: Qwen2_5_VLForConditionalGeneration,
    packed: PackedBatch,
    patches: Tensor,
    patch_grid: tuple[int, int],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Cross-entropy over the turns' tokens only, their logits, and the states of each layer."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image_states = encode_images(model.model.visual, patches, patch_grid)
        embeddings = model.get_input_embeddings()(packed.input_ids)
        is_image = (packed.input_ids == model.config.image_token_id)[..., None]
        embeddings = embeddings.masked_scatter(is_image, image_states.to(embeddings.dtype))
        hidden, after_layers = read_tokens(
            model.model.language_model, embeddings, packed.position_ids, packed.visible
        )
        logits = model.lm_head(hidden.flatten(0, 1)[packed.predictors])
    return F.cross_entropy(logits.float(), packed.targets), logits.detach(), after_layers


class PlaceProbe(nn.Module):
    """Training-only: image tokens' states after an early layer tell their row and column."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 32)

    def forward(self, states: Tensor, packed: PackedBatch, image_pad: int) -> tuple[Tensor, float]:
        """Cross-entropy of row and column over all image tokens, and their mean accuracy."""
        is_image = packed.input_ids == image_pad
        states = states[is_image].float()
        logits = self.linear(F.rms_norm(states, states.shape[-1:]))
        origin = packed.position_ids[0][is_image]
        places = packed.position_ids[1:, is_image] - origin
        pairs = list(zip(logits.split(16, 1), places))
        loss = torch.stack([F.cross_entropy(part, place) for part, place in pairs]).sum()
        accuracy = sum((part.argmax(1) == place).float().mean().item() for part, place in pairs)
        return loss, accuracy / 2


def load_reader(folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, Any]:
    """Model in float32 and processor of a stage's folder."""
    from transformers import AutoProcessor

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(folder)


# --- plumbing --------------------------------------------------------------------------------


class Progress:
    """Prints smoothed figures and the time left; keeps them for the log."""

    def __init__(self, steps: int) -> None:
        self.steps, self.began = steps, time.time()
        self.smooth: dict[str, float] = {}
        self.log: list[dict[str, float]] = []

    def report(self, step: int, **figures: float) -> None:
        """Take in one step's figures; print every ``PROGRESS_EVERY`` steps."""
        for name, value in figures.items():
            kept = 0.97 * self.smooth.get(name, value) + 0.03 * value
            self.smooth[name] = kept
        if step % PROGRESS_EVERY and step != self.steps - 1:
            return
        seconds = time.time() - self.began
        left = seconds / (step + 1) * (self.steps - step - 1)
        row = {name: round(value, 4) for name, value in self.smooth.items()}
        self.log.append({"step": step, "seconds": round(seconds), **row})
        text = "  ".join(f"{name} {value:.3f}" for name, value in row.items())
        print(f"{step}/{self.steps}  {seconds:.0f} s, {left:.0f} s left  {text}", flush=True)


def _iterate_batches(
    rng: random.Random, pool: list[GridScenes], batch: int, steps: int
) -> Iterator[tuple[GridScenes, list[int]]]:
    """Scenes of one grid per step; at first mostly those with one or two objects."""
    easy_until = 0.25 * steps
    easy = [[i for i, s in enumerate(p.scenes) if len(s.objects) <= 2] for p in pool]
    for step in range(steps):
        scenes = _pick_grid(rng, pool, batch)
        candidates = easy[pool.index(scenes)]
        share = 0.85 * (1 - 0.6 * step / easy_until) if step < easy_until else 0.0
        if rng.random() >= share or len(candidates) < batch:
            candidates = list(range(len(scenes)))
        yield scenes, sorted(rng.sample(candidates, batch))


def _pick_grid(rng: random.Random, pool: list[GridScenes], batch: int) -> GridScenes:
    usable = [scenes for scenes in pool if len(scenes) >= 2 * batch]
    return rng.choices(usable, weights=[len(scenes) for scenes in usable])[0]


def _write_turns(rng: random.Random, scene: Scene) -> list[Turn]:
    turns = write_referring_turns(rng, scene, 8)
    if rng.random() < 0.35 or not turns:
        turns.append(write_caption(rng, scene))
    return turns


def _accuracy_after_phrase(logits: Tensor, packed: PackedBatch) -> dict[str, float]:
    """Share of right first tokens after a phrase, per kind: how well phrases are grounded."""
    hits: dict[str, list[bool]] = defaultdict(list)
    right = (logits.argmax(1) == packed.targets).tolist()
    for index, kind in packed.kinds:
        hits[kind].append(right[index])
    return {kind: sum(values) / len(values) for kind, values in sorted(hits.items())}


def _build_language_optimizer(model: nn.Module, probe: nn.Module) -> torch.optim.AdamW:
    """Weight decay on matrices only; the warmed-up tower learns at half the rate."""
    groups = defaultdict(list)
    for name, parameter in [*model.named_parameters(), *probe.named_parameters()]:
        groups["visual" in name, parameter.dim() >= 2].append(parameter)
    settings = [
        {"params": params, "weight_decay": 0.05 * matrix, "scale": 0.5 if visual else 1.0}
        for (visual, matrix), params in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=1.5e-3, betas=(0.9, 0.98), fused=True)


def set_rate(
    optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int, warm_up: int
) -> None:
    """Linear warm-up, then a cosine from ``peak`` to 1 % of it, times the group's ``scale``."""
    rate = peak * min(1.0, (step + 1) / warm_up)
    rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def update(loss: Tensor, parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """One step, gradients clipped at norm 1."""
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _save(model, processor, folder: Path, progress: Progress) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "training_log.json").write_text(json.dumps(progress.log, indent=1))
