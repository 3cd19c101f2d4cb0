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
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from flmm.toy.architecture import (
    build_config,
    build_model,
    build_processor,
    build_tokenizer,
)
from flmm.toy.fast_forward import encode_images, read_tokens
from flmm.toy.packing import PackedBatch, PatchedPixels, TurnPacker
from flmm.toy.scene_pool import GridScenes, load_pool
from flmm.toy.shapes import COLORS, SHAPES, SIZES, Scene
from flmm.toy.text import (
    Turn,
    list_vocabulary_corpus,
    write_caption,
    write_referring_turns,
)
from flmm.toy.training_loop import Progress, set_rate, update

LABEL_COUNTS = (len(COLORS) + 1, len(SHAPES) + 1, len(SIZES) + 1)
PLACE_PROBE_LAYER = 1


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

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    )
    return model, AutoProcessor.from_pretrained(folder, trust_remote_code=False)


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


def _save(model, processor, folder: Path, progress: Progress) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "training_log.json").write_text(json.dumps(progress.log, indent=1))
