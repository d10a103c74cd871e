"""The flow head's layers, with names as stored. Tokens of an image block are modulated by the time; text
tokens pass through the same layers without modulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3MLP, Qwen3RMSNorm

from srum_core.models.generation import CACHE

EPSILON = 1e-5
"""Epsilon of a block's two norms; all other norms have 1e-6."""
ROPE = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


class HeadBlock(nn.Module):
    """x += gate · attention(modulated norm); x += gate · mlp(modulated norm)."""

    def __init__(self, config: Qwen3Config, index: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.self_attn = Qwen3Attention(config, index)
        self.mlp = Qwen3MLP(config)
        self.input_layernorm = Qwen3RMSNorm(width, eps=EPSILON)
        self.post_attention_layernorm = Qwen3RMSNorm(width, eps=EPSILON)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self,
        x: Tensor,
        time: Tensor | None,
        text: int,
        angles: tuple[Tensor, Tensor],
        mask: Tensor,
        cache: Any = None,
    ) -> Tensor:
        """Hidden states (n, t, width) of `text` tokens and an image block -> the same.

        time    embedding (n, width); None if all tokens are text
        angles  rotary cosines and sines
        mask    (n, 1, t, keys), True where a token attends to another"""

        def attend(y: Tensor) -> Tensor:
            return self.self_attn(y, position_embeddings=angles, attention_mask=mask, **{CACHE: cache})[0]

        if time is None:
            x = x + attend(self.input_layernorm(x))
            return x + self.mlp(self.post_attention_layernorm(x))
        parts = self.adaLN_modulation(time)[:, None].chunk(6, dim=-1)
        x = x + gated(attend(modulated(self.input_layernorm(x), text, *parts[:2])), text, parts[2])
        return x + gated(self.mlp(modulated(self.post_attention_layernorm(x), text, *parts[3:5])), text, parts[5])


class FinalLayer(nn.Module):
    """The output of each image token, modulated by the time."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm_final = Qwen3RMSNorm(width, eps=1e-6)
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(n, tokens, width) -> (n, tokens, out)."""
        return self.linear(modulated(self.norm_final(x), 0, *self.adaLN_modulation(time)[:, None].chunk(2, dim=-1)))


def modulated(x: Tensor, text: int, shift: Tensor, scale: Tensor) -> Tensor:
    """Modulate the tokens after the text by shift and scale (n, 1, width)."""
    return _after(x, text, lambda block: block * (1 + scale) + shift)


def gated(x: Tensor, text: int, gate: Tensor) -> Tensor:
    """Multiply the tokens after the text by the gate (n, 1, width)."""
    return _after(x, text, lambda block: block * gate)


def _after(x: Tensor, text: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([x[:, :text], change(x[:, text:])], dim=1) if text else change(x)
