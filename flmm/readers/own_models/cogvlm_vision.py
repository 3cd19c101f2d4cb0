"""CogVLM's vision tower: EVA2-CLIP-E without its last layer, and the adapter to the decoder.

In: pixels ``[B, 3, side, side]``. Out: per picture a border token, its cells row by row, another
border token. Parameters have the published names.

Source: visual.py of THUDM/cogvlm2-llama3-chat-19B and of THUDM/cogvlm-chat-hf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward


class CogVLMVisionConfig(PreTrainedConfig):
    """Of the tower; ``merge_size`` is the side in patches of a cell: 2 in CogVLM2, else 1."""

    model_type = "flmm_cogvlm_vision"
    base_config_key = "vision_config"

    hidden_size: int = 1792
    intermediate_size: int = 15360
    num_hidden_layers: int = 63
    num_attention_heads: int = 16
    image_size: int = 490
    patch_size: int = 14
    merge_size: int = 1
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    @property
    def grid_side(self) -> int:
        """Cells of a side of the picture."""
        return self.image_size // self.patch_size // self.merge_size

    @property
    def num_tokens(self) -> int:
        """Of a picture: its cells and two border tokens."""
        return self.grid_side**2 + 2


class _PatchEmbedding(nn.Module):
    def __init__(self, config: CogVLMVisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.proj = nn.Conv2d(3, width, patch, stride=patch)
        self.cls_embedding = nn.Parameter(torch.zeros(1, width))
        patches = (config.image_size // patch) ** 2
        self.position_embedding = nn.Embedding(patches + 1, width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.proj(pixels).flatten(2).transpose(1, 2)
        whole = self.cls_embedding.expand(len(patches), -1, -1)
        return torch.cat([whole, patches], dim=1) + self.position_embedding.weight


class _Attention(nn.Module):
    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.scaling = (width // self.heads) ** -0.5
        self.query_key_value, self.dense = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        fused = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        return self.dense(attend(self, *fused, None, scaling=self.scaling)[0].flatten(2))


class _MLP(nn.Module):
    def __init__(self, config: CogVLMVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Layer(nn.Module):
    """The norms stand behind, not before."""

    def __init__(self, config: CogVLMVisionConfig) -> None:
        super().__init__()
        self.attention, self.mlp = _Attention(config), _MLP(config)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.input_layernorm(self.attention(x))
        return x + self.post_attention_layernorm(self.mlp(x))


class _Transformer(nn.Module):
    def __init__(self, config: CogVLMVisionConfig) -> None:
        super().__init__()
        count = config.num_hidden_layers
        self.layers = nn.ModuleList([_Layer(config) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class _Adapter(nn.Module):
    """Each cell into the decoder's width, by a gated unit."""

    def __init__(self, width: int, out: int, inner: int) -> None:
        super().__init__()
        self.linear_proj, self.norm1 = nn.Linear(width, out, bias=False), nn.LayerNorm(out)
        self.gate_proj = nn.Linear(out, inner, bias=False)
        self.dense_h_to_4h = nn.Linear(out, inner, bias=False)
        self.dense_4h_to_h = nn.Linear(inner, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.linear_proj(x)))
        return self.dense_4h_to_h(F.silu(self.gate_proj(x)) * self.dense_h_to_4h(x))


class CogVLMVision(PreTrainedModel):
    """The tower, for a decoder of width ``out`` whose MLPs have the width ``inner``."""

    config_class = CogVLMVisionConfig
    _supports_sdpa = _supports_flash_attn = True
    _no_split_modules = ["_Layer"]

    def __init__(self, config: CogVLMVisionConfig, out: int, inner: int) -> None:
        super().__init__(config)
        width, merge = config.hidden_size, config.merge_size
        self.patch_embedding = _PatchEmbedding(config)
        self.transformer = _Transformer(config)
        # The first generation joins no patches, and has no such parameters.
        merging = nn.Conv2d(width, width, merge, stride=merge)
        self.conv: nn.Module = merging if merge > 1 else nn.Identity()
        self.linear_proj = _Adapter(width, out, inner)
        self.boi = nn.Parameter(torch.zeros(1, 1, out))
        self.eoi = nn.Parameter(torch.zeros(1, 1, out))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            for border in (self.boi, self.eoi):
                init.normal_(border, std=self.config.initializer_range)

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, 1 + side * side + 1, out]``."""
        x = self.transformer(self.patch_embedding(pixels.to(self.dtype)))
        patches = self.config.image_size // self.config.patch_size
        x = self.conv(x[:, 1:].transpose(1, 2).unflatten(-1, (patches, patches)))
        x = self.linear_proj(x.flatten(2).transpose(1, 2))
        first, last = (border.expand(len(x), -1, -1) for border in (self.boi, self.eoi))
        return torch.cat([first, x, last], dim=1)
