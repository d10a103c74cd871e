"""BAGEL's mixture of transformers: two sets of weights a layer, one joint attention.

Plain weights serve text, picture markers and looked-at pictures; `*_moe_gen` weights serve latent cells. The two kinds
of token travel as two tensors, so no layer has to sort them. Module names are the checkpoint's.
"""

from __future__ import annotations

from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm, apply_rotary_pos_emb

from srum_bagel.context import QKV, Rope

GENERATION = "_moe_gen"


class Plan(Protocol):
    """Who attends to whom; see `context`."""

    rope_und: Rope | None
    rope_gen: Rope | None

    def attend(self, layer: int, und: QKV | None, gen: QKV | None) -> tuple[Tensor | None, Tensor | None]: ...


class MoTAttention(nn.Module):
    """Projections and per-head norms, once per expert."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        hidden, heads, kv = config.hidden_size, config.num_attention_heads, config.num_key_value_heads or 1
        self.head = hidden // heads
        for expert in ("", GENERATION):
            self.add_module(f"q_proj{expert}", nn.Linear(hidden, heads * self.head))
            self.add_module(f"k_proj{expert}", nn.Linear(hidden, kv * self.head))
            self.add_module(f"v_proj{expert}", nn.Linear(hidden, kv * self.head))
            self.add_module(f"o_proj{expert}", nn.Linear(heads * self.head, hidden, bias=False))
            self.add_module(f"q_norm{expert}", Qwen2RMSNorm(self.head, eps=config.rms_norm_eps))
            self.add_module(f"k_norm{expert}", Qwen2RMSNorm(self.head, eps=config.rms_norm_eps))

    def project(self, x: Tensor | None, angles: Rope | None, expert: str) -> QKV | None:
        """Queries, keys and values of one stream, rotated; None for an absent stream."""
        if x is None:
            return None
        assert angles is not None
        q, k, v = (
            rearrange(self.get_submodule(f"{name}_proj{expert}")(x), "n t (h d) -> n t h d", d=self.head)
            for name in "qkv"
        )
        q, k = self.get_submodule(f"q_norm{expert}")(q), self.get_submodule(f"k_norm{expert}")(k)
        q, k, v = (rearrange(part, "n t h d -> n h t d") for part in (q, k, v))
        cos, sin = (angle.to(q.dtype) for angle in angles)
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        # Under autocast the norms may answer in another type than the projections; attention wants one.
        return q.to(v.dtype), k.to(v.dtype), v

    def forward(self, und: Tensor | None, gen: Tensor | None, plan: Plan, layer: int) -> tuple[Tensor | None, ...]:
        out_und, out_gen = plan.attend(
            layer, self.project(und, plan.rope_und, ""), self.project(gen, plan.rope_gen, GENERATION)
        )
        return self._out(out_und, ""), self._out(out_gen, GENERATION)

    def _out(self, x: Tensor | None, expert: str) -> Tensor | None:
        return None if x is None else self.get_submodule(f"o_proj{expert}")(rearrange(x, "n h t d -> n t (h d)"))


class MoTLayer(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x)), each stream with its own weights."""

    def __init__(self, config: Qwen2Config, index: int) -> None:
        super().__init__()
        self.index = index
        self.self_attn = MoTAttention(config)
        for expert in ("", GENERATION):
            self.add_module(f"mlp{expert}", Qwen2MLP(config))
            for norm in ("input_layernorm", "post_attention_layernorm"):
                self.add_module(f"{norm}{expert}", Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps))

    def forward(self, und: Tensor | None, gen: Tensor | None, plan: Plan) -> tuple[Tensor | None, Tensor | None]:
        seen_und, seen_gen = self.self_attn(
            self._norm(und, "input_layernorm", ""), self._norm(gen, "input_layernorm", GENERATION), plan, self.index
        )
        return self._finish(und, seen_und, ""), self._finish(gen, seen_gen, GENERATION)

    def _norm(self, x: Tensor | None, name: str, expert: str) -> Tensor | None:
        return None if x is None else self.get_submodule(name + expert)(x)

    def _finish(self, x: Tensor | None, seen: Tensor | None, expert: str) -> Tensor | None:
        if x is None or seen is None:
            return None
        x = x + seen
        return x + self.get_submodule(f"mlp{expert}")(self.get_submodule(f"post_attention_layernorm{expert}")(x))


class MoTModel(nn.Module):
    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(MoTLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.norm_moe_gen = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, und: Tensor | None, gen: Tensor | None, plan: Plan) -> tuple[Tensor | None, Tensor | None]:
        """Embeddings (n, t, hidden) of the two streams -> their normed hidden states."""
        for layer in self.layers:
            und, gen = layer(und, gen, plan)
        return (None if und is None else self.norm(und)), (None if gen is None else self.norm_moe_gen(gen))


class MoTLanguageModel(nn.Module):
    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.config = config
        self.model = MoTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def head(self) -> int:
        return self.config.hidden_size // self.config.num_attention_heads

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype
