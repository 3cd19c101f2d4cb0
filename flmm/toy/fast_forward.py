"""The tiny reader's own modules, run in a way that trains faster on a CPU, with equal results.

transformers splits the vision attention picture by picture and repeats every frame for the
temporal patch; during training all pictures of a batch have one grid, so both can be done at
once. Attention runs in float32 inside bfloat16 autocast, because bfloat16 SDPA's backward is
several times slower on a CPU. ``tests/tiny_model`` holds the equality with the stock forward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    with torch.autocast(query.device.type, enabled=False):
        return F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attn_mask=mask
        )


def _normalise(norm: Any, states: Tensor) -> Tensor:
    """Qwen's RMSNorm as one fused operation."""
    weight = norm.weight.to(states.dtype)
    return F.rms_norm(states, states.shape[-1:], weight, norm.variance_epsilon)


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = states.float().chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def encode_images(tower: Any, patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """The vision tower over a batch of pictures of one grid, every layer attending fully.

    Args:
        tower: ``Qwen2_5_VisionTransformerPretrainedModel`` with full attention in all layers.
        patches: float ``[B, n, C*p*p]``, one frame per patch, in the processor's order.
        grid: (grid_h, grid_w) in patches.

    Returns:
        ``[B, n / 4, D]``: one row per merged token.
    """
    batch, count, _ = patches.shape
    weight = tower.patch_embed.proj.weight.sum(2).flatten(1)  # both frames are the same picture
    states = F.linear(patches, weight)
    cos, sin = _build_rotations(tower, grid, patches.device)
    for block in tower.blocks:
        attention, heads = block.attn, block.attn.num_heads
        qkv = attention.qkv(_normalise(block.norm1, states))
        query, key, value = qkv.view(batch, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
        mixed = _attend(_rotate(query, cos, sin), _rotate(key, cos, sin), value, None)
        states = states + attention.proj(mixed.transpose(1, 2).reshape(batch, count, -1))
        states = states + block.mlp(_normalise(block.norm2, states))
    merger = tower.merger
    merged = _normalise(merger.ln_q, states).reshape(batch, count // tower.spatial_merge_unit, -1)
    return merger.mlp(merged)


def _build_rotations(tower: Any, grid: tuple[int, int], device) -> tuple[Tensor, Tensor]:
    """Half of the rotary cosines and sines ``[n, head_dim / 2]``, rows in the processor's order."""
    merge = tower.spatial_merge_size
    rows, columns = grid
    places = torch.stack(
        torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1
    )
    places = places.view(rows // merge, merge, columns // merge, merge, 2)
    places = places.permute(0, 2, 1, 3, 4).reshape(-1, 2).to(device)
    half = tower.blocks[0].attn.head_dim // 2
    theta = tower.config.rope_parameters["rope_theta"]
    frequency = 1.0 / theta ** (torch.arange(0, half, 2, device=device).float() / half)
    angle = (places[:, :, None] * frequency).flatten(1)
    return angle.cos(), angle.sin()


def read_tokens(language_model: Any, embeddings: Tensor, positions: Tensor, visible: Tensor):
    """The language layers over a padded batch.

    Args:
        language_model: ``Qwen2_5_VLTextModel``.
        embeddings: ``[B, S, D]``, image rows already in place.
        positions: int ``[3, B, S]``, M-RoPE.
        visible: bool ``[B, 1, S, S]``, True where a query row sees a key column.

    Returns:
        ``[B, S, D]`` after the final norm, and the states after each layer.
    """
    batch, length, _ = embeddings.shape
    cos, sin = language_model.rotary_emb(embeddings.float(), positions)
    cos, sin = (part.chunk(2, -1)[0][:, None] for part in (cos, sin))
    states, after_layers = embeddings, []
    for layer in language_model.layers:
        attention = layer.self_attn
        normal = _normalise(layer.input_layernorm, states)
        query, key, value = (
            projection(normal).view(batch, length, -1, attention.head_dim).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        mixed = _attend(query, key, value, visible).transpose(1, 2).reshape(batch, length, -1)
        states = states + attention.o_proj(mixed)
        states = states + layer.mlp(_normalise(layer.post_attention_layernorm, states))
        after_layers.append(states)
    return _normalise(language_model.norm, states), after_layers
