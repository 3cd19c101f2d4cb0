"""Qwen-VL's vision tower: OpenCLIP's ViT over 448 x 448 px, then a resampler of 256 queries.

Parameters have the published names. Source: arXiv 2308.12966, section 2.1, and visual.py beside the
published weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TABLE_CELLS = 256  # that the tower's own position embeddings were made for
EPS = 1e-6


def resize_table(table: Tensor, cells: int) -> Tensor:
    """A square table of position embeddings ``[n*n, D]``, bicubic, as ``[cells, D]``."""
    old, new = math.isqrt(len(table)), math.isqrt(cells)
    if old == new:
        return table
    grid = table.float().view(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)


def build_sine_table(side: int, width: int) -> Tensor:
    """Sines and cosines ``[side*side, width]``: the column in the first half, the row behind."""
    rates = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1).float()
    columns, rows = waves.expand(side, side, -1), waves[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=2).flatten(0, 1)


class VisionAttention(nn.Module):
    """Self-attention whose fused projection is laid out head by head (q, k, v of each)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        """``[B, N, D]`` to the same."""
        fused = self.in_proj(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(*fused.chunk(3, dim=-1))
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class VisionBlock(nn.Module):
    """A layer of the tower."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.attn = VisionAttention(width, heads)
        layers = {"c_fc": nn.Linear(width, inner), "c_proj": nn.Linear(inner, width)}
        self.mlp = nn.ModuleDict(layers)

    def forward(self, states: Tensor) -> Tensor:
        """``[B, N, D]`` to the same."""
        states = states + self.attn(self.ln_1(states))
        return states + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(states))))


class Resampler(nn.Module):
    """Learned queries, a square grid of them, look at all patches once.

    A query's position is its place in the grid, a patch's the same table resized to the patches.
    """

    def __init__(self, queries: int, width: int, source_width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(queries, width))
        self.pos_embed = nn.Parameter(torch.zeros(queries, width), requires_grad=False)
        self.kv_proj = nn.Linear(source_width, width, bias=False)
        self.attn = nn.MultiheadAttention(width, max(1, width // 128), batch_first=True)
        self.ln_q, self.ln_kv = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)

    def forward(self, states: Tensor, need_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Patches ``[B, N, D]`` to queries ``[B, Q, D']``, and how much each looks at a patch.

        Returns:
            the weights ``[B, Q, N]``, the mean of all heads', are ``None`` if nobody needs them.
        """
        states = self.ln_kv(self.kv_proj(states))
        query = (self.ln_q(self.query) + self.pos_embed).expand(len(states), -1, -1)
        key = states + resize_table(self.pos_embed, states.shape[1])
        return self.attn(query, key, states, need_weights=need_weights)


class VisionTower(nn.Module):
    """Pixels to image tokens."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, inner = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        patch, out = config.patch_size, config.output_dim
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.positional_embedding = nn.Parameter(torch.zeros(TABLE_CELLS, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(out, eps=EPS)
        heads, layers = config.num_attention_heads, range(config.num_hidden_layers)
        blocks = nn.ModuleList([VisionBlock(width, heads, inner) for _ in layers])
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.attn_pool = Resampler(config.num_queries, out, width)
        self.proj = nn.Parameter(torch.zeros(out, out))

    def forward(self, pixel_values: Tensor, cell_weights: list[Tensor] | None = None) -> Tensor:
        """Pixels ``[B, 3, S, S]`` to image tokens ``[B, Q, D]``.

        To ``cell_weights`` it adds, per picture, how much each token looks at each patch: float32
        ``[Q, N]``, whose rows sum to 1.
        """
        asked = cell_weights is not None
        tokens, weights = self.attn_pool(self.encode(pixel_values), need_weights=asked)
        if cell_weights is not None:
            cell_weights += weights.float().unbind()
        return self.ln_post(tokens) @ self.proj

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Pixels ``[B, 3, S, S]`` to patches ``[B, N, width]``."""
        states = self.conv1(pixel_values.to(self.conv1.weight)).flatten(2).transpose(1, 2)
        states = self.ln_pre(states + resize_table(self.positional_embedding, states.shape[1]))
        for block in self.transformer.get_submodule("resblocks").children():
            states = block(states)
        return states
