"""A Llama decoder whose layers hold two experts of every linear map, one for pictures.

In: embeddings and, where they hold a picture, which tokens each expert works on. Out: what Llama
gives. The choice is an argument of the pass: a pass without pictures, as phrases are, runs the
language experts alone and pays for nothing else. Parameters have the published names.

Source: arXiv 2311.03079, section 2.1, and modeling_cogvlm.py of THUDM/cogvlm2-llama3-chat-19B. The
angles of positions are computed in float32, the original's in the dtype of its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    apply_rotary_pos_emb,
    eager_attention_forward,
)


class Experts(NamedTuple):
    """Which tokens each kind of expert works on: places in ``[B * R]``, int64."""

    vision: Tensor
    language: Tensor


def choose_experts(is_image: Tensor) -> Experts:
    """The experts of tokens ``[B, R]``; the last one of a picture is the language experts'."""
    is_vision = is_image.clone()
    is_vision[:, :-1] &= is_image[:, 1:]
    is_vision[:, -1] = False
    flat = is_vision.flatten()
    return Experts(flat.nonzero()[:, 0], flat.logical_not().nonzero()[:, 0])


def _run(tokens: Tensor, experts: Experts | None, vision: nn.Module, language: nn.Module) -> Tensor:
    """``[B, R, D']`` of tokens ``[B, R, D]``, each through its own expert; ``None``: language."""
    if experts is None:
        return language(tokens)
    flat = tokens.flatten(0, 1)
    read = language(flat[experts.language])
    joined = read.new_empty(len(flat), read.shape[-1])
    joined[experts.language] = read
    joined[experts.vision] = vision(flat[experts.vision])
    return joined.unflatten(0, tokens.shape[:2])


class ExpertAttention(nn.Module):
    """Llama's, with fused projections; ``attention_bias`` is that of the vision expert."""

    is_causal = True

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.num_key_value_groups = heads // groups
        self.scaling = self.head_dim**-0.5
        self.widths = [self.head_dim * count for count in (heads, groups, groups)]
        width, inner, fused = config.hidden_size, self.widths[0], sum(self.widths)
        self.vision_expert_query_key_value = nn.Linear(width, fused, bias=config.attention_bias)
        self.vision_expert_dense = nn.Linear(inner, width, bias=False)
        self.language_expert_query_key_value = nn.Linear(width, fused, bias=False)
        self.language_expert_dense = nn.Linear(inner, width, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        experts: Experts | None,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """``[B, R, D]``, and the weights where the attention function gives them."""
        vision, language = self.vision_expert_query_key_value, self.language_expert_query_key_value
        fused = _run(hidden_states, experts, vision, language)
        query, key, value = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for part in fused.split(self.widths, dim=-1)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = attend(
            self, query, key, value, attention_mask, scaling=self.scaling, **options
        )
        vision, language = self.vision_expert_dense, self.language_expert_dense
        return _run(attended.flatten(2), experts, vision, language), weights


class ExpertMLP(nn.Module):
    """Two of Llama's."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.vision_mlp, self.language_mlp = LlamaMLP(config), LlamaMLP(config)

    def forward(self, hidden_states: Tensor, experts: Experts | None) -> Tensor:
        """``[B, R, D]``."""
        return _run(hidden_states, experts, self.vision_mlp, self.language_mlp)


class ExpertLayer(GradientCheckpointingLayer):
    """Llama's layer; the norms are shared."""

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = ExpertAttention(config, layer_idx), ExpertMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, hidden_states: Tensor, experts: Experts | None = None, **inputs: Any
    ) -> Tensor:
        """``[B, R, D]``."""
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), experts, **inputs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states), experts)


class ExpertLlama(LlamaModel):
    """Llama with these layers; takes ``experts`` beside what Llama takes."""

    _no_split_modules = ["ExpertLayer"]
    _can_record_outputs = {
        "hidden_states": ExpertLayer,
        "attentions": ExpertAttention,
    }

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        count = config.num_hidden_layers
        self.layers = nn.ModuleList([ExpertLayer(config, index) for index in range(count)])
        self.post_init()
