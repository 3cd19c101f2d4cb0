"""Training of the tiny reader: a vision warm-up, then language on isolated referring turns.

Stage "vision" gives the tower what a pretrained ViT brings to a real model: a linear probe per
merged token names colour, shape and size of what is there. Stage "language" sees text only: each
picture's prefix is read once and teaches many turns. A training-only probe on the first layers'
image tokens asks for row and column (the tower knows relative places only; without it place words
stay at their prior for a long time).
"""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flmm.toy.reader_data import (
    GridScenes,
    PackedBatch,
    draw_scenes,
    encode_prefixes,
    pack_turns,
    write_turns,
)
from flmm.toy.reader_families import FAMILIES, find_family, load_reader
from flmm.toy.shapes import COLORS, SHAPES, SIZES, Scene
from flmm.toy.training_loop import Progress, set_rate, update

BATCH = 24
_LABEL_COUNTS = {"color": len(COLORS) + 1, "shape": len(SHAPES) + 1, "size": len(SIZES) + 1}
_PLACE_PROBE_LAYER = 2


def train_vision(
    start: Path | str, out: Path, num_scenes: int, steps: int, seed: int, workers: int
) -> None:
    """Stage "vision": tower and projector alone, with a linear probe per image token.

    ``start`` is the result of an earlier vision stage, or a family's name: random weights.
    """
    torch.manual_seed(seed)
    model, processor = (
        FAMILIES[str(start)].build() if start in FAMILIES else load_reader(Path(start))
    )
    family = find_family(model)
    rng, pool = random.Random(seed), draw_scenes(family, num_scenes, workers)
    tower = [p for name, p in model.named_parameters() if name.startswith(family.tower)]
    probe = nn.Linear(model.config.get_text_config().hidden_size, sum(_LABEL_COUNTS.values()))
    parameters = [*tower, *probe.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=2e-3, weight_decay=0.02, betas=(0.9, 0.98), fused=True
    )
    progress = Progress(steps)
    for step in range(steps):
        set_rate(optimizer, 2e-3, step, steps, warm_up=60)
        scenes = _pick_grid(rng, pool)
        chosen = sorted(rng.sample(range(len(scenes)), BATCH))
        labels = torch.from_numpy(scenes.cells[chosen]).long().reshape(-1, 3)
        images = [scenes.scenes[index].image for index in chosen]
        seen = encode_prefixes(processor, images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = probe(family.see(model, seen))
        loss, accuracy = _probe_loss(logits.float(), labels)
        update(loss, parameters, optimizer)
        progress.report(step, loss=loss.item(), **accuracy)
    _save(model, processor, out, progress)


def _probe_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    covered = labels[:, 0] > 0
    weight = torch.where(covered, 1.0, 0.3)
    loss, accuracy = logits.new_zeros(()), {}
    parts = logits.split(list(_LABEL_COUNTS.values()), 1)
    for name, part, target in zip(_LABEL_COUNTS, parts, labels.unbind(1)):
        each = F.cross_entropy(part, target, reduction="none")
        loss = loss + (each * weight).sum() / weight.sum() * (0.5 if name == "size" else 1.0)
        accuracy[name] = (part.argmax(1) == target)[covered].float().mean().item()
    return loss, accuracy


def train_language(
    start: Path, out: Path, num_scenes: int, steps: int, seed: int, workers: int
) -> None:
    """Stage "language": text only. ``start`` holds the result of the stage before."""
    torch.manual_seed(seed)
    model, processor = load_reader(start)
    family = find_family(model)
    rng, pool = random.Random(seed + 1), draw_scenes(family, num_scenes, workers)
    place_probe = PlaceProbe(model.config.get_text_config().hidden_size)
    optimizer = _build_language_optimizer(model, place_probe)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    progress = Progress(steps)
    model.train()
    for step, chosen in enumerate(_iterate_batches(rng, pool, steps)):
        set_rate(optimizer, 1.5e-3, step, steps, warm_up=60)
        turns = [write_turns(rng, scene) for scene in chosen]
        packed = pack_turns(model, processor, [scene.image for scene in chosen], turns)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, layers = predict_turns(model, packed)
        loss = F.cross_entropy(logits.float(), packed.targets)
        is_image = packed.inputs["input_ids"] == model.config.image_token_id
        grid = family.compute_token_grid(chosen[0].image_size)
        place_loss, place_accuracy = place_probe(layers[_PLACE_PROBE_LAYER][is_image], grid)
        update(loss + (0.3 if step < 0.3 * steps else 0.1) * place_loss, parameters, optimizer)
        after_phrase = _accuracy_after_phrase(logits.detach(), packed)
        progress.report(step, loss=loss.item(), row_column=place_accuracy, **after_phrase)
        if step and step % 500 == 0:
            _save(model, processor, out.with_name(out.name + "_partial"), progress)
    _save(model, processor, out, progress)


def predict_turns(model: Any, packed: PackedBatch) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits ``[N, V]`` of the turns' tokens only, and the states before and after each layer."""
    output = model.model(**packed.inputs, output_hidden_states=True, use_cache=False)
    rows = output.last_hidden_state.flatten(0, 1)[packed.predictors]
    return model.lm_head(rows), output.hidden_states


class PlaceProbe(nn.Module):
    """Training-only: image tokens' states after an early layer tell their row and column."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 32)

    def forward(self, states: Tensor, grid: tuple[int, int]) -> tuple[Tensor, float]:
        """Cross-entropy of row and column, and their mean accuracy.

        ``states`` are ``[B * h * w, D]`` of the image tokens of pictures of one grid (h, w).
        """
        logits = self.linear(F.rms_norm(states.float(), states.shape[-1:]))
        rows, columns = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
        places = [axis.flatten().repeat(len(states) // axis.numel()) for axis in (rows, columns)]
        pairs = list(zip(logits.split(16, 1), places))
        loss = torch.stack([F.cross_entropy(part, place) for part, place in pairs]).sum()
        accuracy = sum((part.argmax(1) == place).float().mean().item() for part, place in pairs)
        return loss, accuracy / 2


def embed_reader(start: Path, out: Path) -> None:
    """Save model (bfloat16), tokenizer and processor of ``start`` under ``out``, without logs."""
    model, processor = load_reader(start)
    if out.exists():
        shutil.rmtree(out)
    model.bfloat16().save_pretrained(out)
    processor.save_pretrained(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.2f} MB")


def _iterate_batches(
    rng: random.Random, pool: list[GridScenes], steps: int
) -> Iterator[list[Scene]]:
    """Scenes of one grid per step; at first mostly those with one or two objects."""
    easy_until = 0.25 * steps
    easy = [[i for i, s in enumerate(p.scenes) if len(s.objects) <= 2] for p in pool]
    for step in range(steps):
        scenes = _pick_grid(rng, pool)
        candidates = easy[pool.index(scenes)]
        share = 0.85 * (1 - 0.6 * step / easy_until) if step < easy_until else 0.0
        if rng.random() >= share or len(candidates) < BATCH:
            candidates = list(range(len(scenes)))
        yield [scenes.scenes[index] for index in sorted(rng.sample(candidates, BATCH))]


def _pick_grid(rng: random.Random, pool: list[GridScenes]) -> GridScenes:
    usable = [scenes for scenes in pool if len(scenes) >= 2 * BATCH]
    if not usable:
        raise ValueError(f"too few scenes: no grid has {2 * BATCH} of them; raise --scenes")
    return rng.choices(usable, weights=[len(scenes) for scenes in usable])[0]


def _accuracy_after_phrase(logits: Tensor, packed: PackedBatch) -> dict[str, float]:
    """Share of right first tokens after a phrase, per kind: how well phrases are grounded."""
    hits: dict[str, list[bool]] = defaultdict(list)
    right = (logits.argmax(1) == packed.targets).tolist()
    for index, kind in packed.kinds:
        hits[kind].append(right[index])
    return {kind: sum(values) / len(values) for kind, values in sorted(hits.items())}


def _build_language_optimizer(model: nn.Module, probe: nn.Module) -> torch.optim.AdamW:
    """Weight decay on matrices only; the warmed-up tower learns at half the rate."""
    groups, tower = defaultdict(list), find_family(model).tower
    for name, parameter in [*model.named_parameters(), *probe.named_parameters()]:
        groups[name.startswith(tower), parameter.dim() >= 2].append(parameter)
    settings = [
        {"params": params, "weight_decay": 0.05 * matrix, "scale": 0.5 if visual else 1.0}
        for (visual, matrix), params in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=1.5e-3, betas=(0.9, 0.98), fused=True)


def _save(model: Any, processor: Any, folder: Path, progress: Progress) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "training_log.json").write_text(json.dumps(progress.log, indent=1))
