"""BAGEL's mixture of transformers: two sets of weights a layer, one joint attention.

Plain weights serve text, image markers and images for understanding; `*_moe_gen` weights serve latent cells. Tokens
travel in streams, tensors of one expert each, so no layer has to sort them. Module names are the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm

from srum_bagel.attention import GENERATION, Projected, Rope, rotate


class Plan(Protocol):
    """The streams through the layers, the attention plan (see `attention`), and the required outputs."""

    experts: Sequence[str]
    """Each stream's expert: "" or GENERATION."""
    angles: Sequence[Rope]
    """Each stream's rotary angles."""
    wanted: Sequence[bool]
    """Which streams' final states are wanted. Of the others the last layer makes keys and values only."""

    def attend(self, layer: int, streams: Sequence[Projected]) -> list[Tensor | None]: ...


class RMSNorm(Qwen2RMSNorm):
    """transformers' layer; on float32 (training on a CPU, mostly) one step of autograd instead of six."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype is not torch.float32 or self.weight.dtype is not torch.float32:
            return super().forward(hidden_states)
        normed: Tensor = _Normed.apply(hidden_states, self.weight, self.variance_epsilon)
        return normed


class _Normed(torch.autograd.Function):
    """y = w · x · r, with r = 1 / sqrt(mean(x²) + eps): kept are x, w and r."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, eps: float) -> Tensor:
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, w, r)
        return (x * r).mul_(w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """dx = r · (g·w) - x · r³ · mean(x · (g·w)); dw = the sum of g · x · r over all but channels."""
        x, w, r = ctx.saved_tensors
        of_x = of_w = None
        if ctx.needs_input_grad[1]:
            of_w = (gradient * x).mul_(r).flatten(0, -2).sum(dim=0)
        if ctx.needs_input_grad[0]:
            g = gradient * w
            mean = torch.linalg.vecdot(g, x).div_(x.shape[-1])[..., None]
            of_x = g.mul_(r).addcmul_(x, mean * r**3, value=-1)
        return of_x, of_w, None


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
            self.add_module(f"q_norm{expert}", RMSNorm(self.head, eps=config.rms_norm_eps))
            self.add_module(f"k_norm{expert}", RMSNorm(self.head, eps=config.rms_norm_eps))

    def project(self, x: Tensor, angles: Rope, expert: str, asks: bool) -> Projected:
        """Queries (if the stream asks), keys and values of one stream, normed by head and rotated."""
        q = self._rotated(x, "q", angles, expert) if asks else None
        k = self._rotated(x, "k", angles, expert)
        v = self._heads(x, "v", expert)
        # Under autocast the norms may answer in another type than the projections; attention wants one.
        return None if q is None else q.to(v.dtype), k.to(v.dtype), v

    def _heads(self, x: Tensor, name: str, expert: str) -> Tensor:
        return rearrange(self.get_submodule(f"{name}_proj{expert}")(x), "n t (h d) -> n h t d", d=self.head)

    def _rotated(self, x: Tensor, name: str, angles: Rope, expert: str) -> Tensor:
        x = self.get_submodule(f"{name}_norm{expert}")(self._heads(x, name, expert))
        return rotate(x, *(angle.to(x.dtype) for angle in angles))

    def out(self, x: Tensor, expert: str) -> Tensor:
        return self.get_submodule(f"o_proj{expert}")(rearrange(x, "n h t d -> n t (h d)"))


class MoTLayer(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x)), each stream with its own expert's weights."""

    def __init__(self, config: Qwen2Config, index: int) -> None:
        super().__init__()
        self.index = index
        self.self_attn = MoTAttention(config)
        for expert in ("", GENERATION):
            self.add_module(f"mlp{expert}", Qwen2MLP(config))
            for norm in ("input_layernorm", "post_attention_layernorm"):
                self.add_module(f"{norm}{expert}", RMSNorm(config.hidden_size, eps=config.rms_norm_eps))

    def forward(self, streams: Sequence[Tensor], plan: Plan, asks: Sequence[bool]) -> list[Tensor | None]:
        """None for a stream that does not ask: others only see its keys and values."""
        projected = [
            self.self_attn.project(self.get_submodule(f"input_layernorm{expert}")(x), angles, expert, ask)
            for x, angles, expert, ask in zip(streams, plan.angles, plan.experts, asks, strict=True)
        ]
        seen = plan.attend(self.index, projected)
        return [
            None if each is None else self._finish(x, each, expert)
            for x, each, expert in zip(streams, seen, plan.experts, strict=True)
        ]

    def _finish(self, x: Tensor, seen: Tensor, expert: str) -> Tensor:
        x = x + self.self_attn.out(seen, expert)
        return x + self.get_submodule(f"mlp{expert}")(self.get_submodule(f"post_attention_layernorm{expert}")(x))


class MoTModel(nn.Module):
    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(MoTLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.norm_moe_gen = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, streams: Sequence[Tensor], plan: Plan) -> list[Tensor | None]:
        """Embeddings (n, t, hidden) of each stream -> normed hidden states; None for what `plan` does not want."""
        *others, last = self.layers
        for layer in others:
            streams = layer(streams, plan, [True] * len(streams))
        streams = last(streams, plan, plan.wanted)
        return [
            None if x is None else self.get_submodule(f"norm{expert}")(x)
            for x, expert in zip(streams, plan.experts, strict=True)
        ]


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
