"""Training of the tiny SAM: any shape, prompted by its jittered box and a blurred mask.

The stand-in for SAM's own pre-training; with the mask head it learns under ``tools/train.py``.
"""

from __future__ import annotations

import random
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from segment_anything.modeling import Sam
from torch import Tensor

from flmm.geometry import compute_boxes_xyxy, compute_sam_input_size, resize_maps
from flmm.masks.refiners.segment_anything import build_tiny_sam
from flmm.toy.shapes import draw_in_processes, render_scene
from flmm.toy.training_loop import Progress, set_rate, update

FRAME_PX, MASK_SIDE = 256, 64
BATCH, PROMPTS_PER_IMAGE = 12, 2
_BLOCK = 100  # scenes drawn from one source of randomness
# Frame uint8 [256, 256, 3], the part of it (h, w) that is picture, masks uint8 [n, 64, 64].
PromptScene = tuple[np.ndarray, tuple[int, int], np.ndarray]


def train_refiner(out: Path, num_scenes: int, steps: int, seed: int, workers: int) -> None:
    """Train the tiny SAM and save all its weights as safetensors (float16)."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    # Scenes that no other stage has seen.
    starts = range(0, num_scenes, _BLOCK)
    jobs = [
        (f"tiny refiner {seed} {index}", min(_BLOCK, num_scenes - start))
        for index, start in enumerate(starts)
    ]
    blocks = draw_in_processes(_draw_block, jobs, workers, "block")
    scenes = [scene for block in blocks for scene in block]
    sam = build_tiny_sam().train()
    parameters = list(sam.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, weight_decay=0.01, fused=True)
    progress = Progress(steps)
    for step in range(steps):
        set_rate(optimizer, 1.5e-3, step, steps, warm_up=100)
        pixels, inside, targets, owners = sample_batch(scenes, rng)
        normal = (pixels - sam.pixel_mean) / sam.pixel_std * inside[:, None]
        embeddings = sam.image_encoder(normal)
        logits, quality = decode(sam, embeddings, owners, build_prompts(targets, rng))
        loss, iou = compute_refiner_loss(logits, quality, targets)
        update(loss, parameters, optimizer)
        progress.report(step, loss=loss.item(), iou=iou)
    save_file({key: value.half() for key, value in sam.state_dict().items()}, out)


def _draw_block(job: tuple[str, int]) -> list[PromptScene]:
    source, count = job
    rng, scenes = random.Random(source), []
    for _ in range(count):
        scene = render_scene(rng)
        height, width = compute_sam_input_size(scene.image_size, FRAME_PX)
        frame = np.zeros((FRAME_PX, FRAME_PX, 3), np.uint8)
        picture = Image.fromarray(scene.image).resize((width, height), Image.Resampling.BILINEAR)
        frame[:height, :width] = np.asarray(picture)
        masks = []
        for item in scene.objects:
            whole = np.zeros((FRAME_PX, FRAME_PX), np.float32)
            whole[:height, :width] = cv2.resize(item.mask.astype(np.float32), (width, height))
            small = cv2.resize(whole, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA)
            masks.append((small * 255).astype(np.uint8))
        scenes.append((frame, (height, width), np.stack(masks)))
    return scenes


def sample_batch(
    scenes: list[PromptScene], rng: random.Random
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch of scenes: pixels uint8 ``[B, 3, 256, 256]``, inside bool ``[B, 256, 256]`` (not
    padding), masks float ``[N, 64, 64]`` in [0, 1] and their image index ``[N]``, ascending.
    """
    pixels, masks, owners = [], [], []
    inside = torch.zeros(BATCH, FRAME_PX, FRAME_PX, dtype=torch.bool)
    for index, (frame, (height, width), objects) in enumerate(rng.sample(scenes, BATCH)):
        pixels.append(torch.from_numpy(frame).permute(2, 0, 1))
        inside[index, :height, :width] = True
        for item in rng.sample(range(len(objects)), min(PROMPTS_PER_IMAGE, len(objects))):
            masks.append(torch.from_numpy(objects[item]).float() / 255)
            owners.append(index)
    return torch.stack(pixels), inside, torch.stack(masks), torch.tensor(owners)


def build_prompts(masks: Tensor, rng: random.Random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a mask head might say of ``masks [N, 64, 64]``.

    Returns:
        boxes ``[N, 4]`` in frame pixels, mask logits ``[N, 1, 64, 64]``, and two bool ``[N]``:
        the phrases prompted with a mask, and with a box.
    """
    count, scale = len(masks), FRAME_PX / MASK_SIDE
    boxes = compute_boxes_xyxy(masks > 0.3).nan_to_num(0) * scale
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    boxes = (boxes + sides * torch.randn(count, 4) * 0.1).clamp(0, FRAME_PX)
    side = rng.choice((12, 16, 24, 32))
    coarse = F.interpolate(masks[:, None], size=(side, side), mode="area")
    logits = coarse.clamp(0.02, 0.98).logit() + torch.randn_like(coarse) * rng.uniform(0.1, 0.8)
    logits = resize_maps(logits * rng.uniform(0.6, 2.0), (MASK_SIDE, MASK_SIDE))
    draw = torch.rand(count)
    return boxes, logits, draw < 0.8, (draw > 0.4) | (draw < 0.2)


def decode(
    sam: Sam, embeddings: Tensor, owners: Tensor, prompts: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The mask decoder's first mask: logits ``[N, 64, 64]`` and predicted IoU ``[N]``."""
    encoder, (boxes, mask_logits, with_mask, with_box) = sam.prompt_encoder, prompts
    sparse, dense = encoder(points=None, boxes=boxes, masks=mask_logits)
    no_mask = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    dense = torch.where(with_mask[:, None, None, None], dense, no_mask)
    sparse = torch.where(with_box[:, None, None], sparse, encoder.not_a_point_embed.weight[None])
    decoded = [
        sam.mask_decoder(
            image_embeddings=embeddings[index : index + 1],
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse[owners == index],
            dense_prompt_embeddings=dense[owners == index],
            multimask_output=False,
        )
        for index in range(len(embeddings))
    ]
    logits, quality = (torch.cat(parts)[:, 0] for parts in zip(*decoded))
    return logits, quality


def compute_refiner_loss(logits: Tensor, quality: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Focal and dice loss of the masks, and squared error of the predicted IoU."""
    probs = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    focal = 20 * (entropy * (probs - targets).abs() ** 2).mean()
    overlap = (probs * targets).flatten(1).sum(1)
    dice = 1 - (2 * overlap + 1) / ((probs + targets).flatten(1).sum(1) + 1)
    with torch.no_grad():
        found, true = logits > 0, targets > 0.5
        union = (found | true).flatten(1).sum(1).clamp(min=1)
        iou = (found & true).flatten(1).sum(1) / union
    return focal + dice.mean() + 0.3 * F.mse_loss(quality, iou), iou.mean().item()
