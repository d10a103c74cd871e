"""A middle-sized BAGEL with random weights: hidden 512, MLP 1408, 6 layers, 8 heads of 64 (4 for keys and values). Its
work, and how work is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Qwen2Config

from srum_bagel.denoiser import BagelDenoiser
from srum_bagel.model import make_recipe
from srum_bagel.options import Options
from srum_bagel.sampling import Contexts
from srum_core.config.settings import Lora
from srum_core.training.lora import Tuned, tune

SIDE, CELL, TEXT = 16, 64, 32
"""Latent cells of a side, channels of a cell, tokens of a caption."""


def build() -> BagelDenoiser:
    config = Qwen2Config(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4,
        vocab_size=2000, rms_norm_eps=1e-6, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return BagelDenoiser(config, CELL, 64, (1, 2), 1e6)


def images(count: int, side: int = SIDE) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Noisy grids, times and captions."""
    rng = torch.Generator().manual_seed(1)
    grids = [torch.randn(side, side, CELL, generator=rng) for _ in range(count)]
    texts = [torch.randint(3, 2000, (TEXT,), generator=rng) for _ in range(count)]
    return grids, torch.rand(count, generator=rng), texts


def prepared(
    denoiser: BagelDenoiser,
    kind: Literal["lora", "full"],
    experts: Literal["all", "generation"],
    compiled: bool,
    checkpointing: bool = False,
) -> Tuned:
    """As training prepares it; LoRA of rank 16."""
    recipe = make_recipe(denoiser.language_model.config.num_hidden_layers, Options(experts=experts))
    model: Any = SimpleNamespace(denoiser=denoiser, recipe=recipe)
    return tune(model, kind, Lora(rank=16, dropout=0.0), checkpointing=checkpointing, compiled=compiled)


def step(module: Any, batch: Any) -> Callable[[], object]:
    """Forwards and backwards, gradients thrown away."""

    def run() -> None:
        torch.stack(module(*batch)).square().mean().backward()
        module.zero_grad(set_to_none=True)

    return run


def contexts(denoiser: BagelDenoiser, texts: Sequence[Tensor]) -> Contexts:
    """Of captions, with the branches of guidance."""
    full = denoiser.context(len(texts))
    denoiser.read_text(full, texts)
    return Contexts(full, denoiser.context(len(texts)), full)


def timed(work: Callable[[], object], rounds: int, wait: Callable[[], object] = lambda: None) -> dict[str, float]:
    """After one round that does not count; `wait` for what goes on beside this thread."""
    seconds = []
    for _ in range(rounds + 1):
        wait()
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    return {"seconds": median(seconds[1:]), "low": min(seconds[1:]), "high": max(seconds[1:])}


def products(
    denoiser: BagelDenoiser,
    count: int,
    backward: Sequence[str] = ("inputs", "weights"),
    side: int = SIDE,
    text: int = TEXT,
) -> float:
    """Multiplications and additions of the blocks' matrix products for so many images, forwards and what is asked for
    backwards: each linear map counts 2 a weight and token, attention 4 per channel and visible pair."""
    config = denoiser.language_model.config
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    keys = hidden * (config.num_key_value_heads or 1) // config.num_attention_heads
    tokens = count * (side**2 + 2 + text)
    linear = 2 * tokens * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner)
    pairs = (side**2 + 2) * (side**2 + 2 + text) + text * (text + 1) / 2
    return layers * (linear * (1 + len(backward)) + 4 * hidden * count * pairs * (1 + 2 * bool(backward)))
