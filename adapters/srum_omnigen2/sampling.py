"""Sampling: Euler steps over shifted times, with guidance in a range of steps, for a batch of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from srum_omnigen2.denoiser import Denoiser
from srum_omnigen2.options import Sampling

Watch = Callable[[float, Tensor, Tensor, Tensor, Tensor | None], None]
"""Called at each step with the time, the state, and the velocities: used, for the prompt, for the negative one."""


def sampling_shift(rows: int, columns: int) -> float:
    """Shift of the sampling times for a grid of latent cells (not tokens)."""
    return math.sqrt(rows * columns) / 40


def training_shift(tokens: int, version: str) -> float:
    """Shift of the training times for the tokens per image; "v1" is the official recipe's."""
    return math.exp(0.5 + 0.65 * (tokens - 256) / 3840) if version == "v1" else math.sqrt(tokens) / 20


def time_grid(steps: int, shift: float) -> Tensor:
    """Float64 (steps + 1,) on the CPU, from 1 (noise) to 0 (clean)."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu")
    return 1 - t / (shift - shift * t + t)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    prompts: Sequence[Tensor],
    negative: Tensor,
    noise: Sequence[Tensor],
    sampling: Sampling,
    shift: float,
    watch: Watch | None = None,
) -> list[Tensor]:
    """Noise grids (h, w, c) of one size -> clean latent grids, float32.

    prompts   hidden states (t, text width) per image
    negative  hidden states that all images are guided away from"""
    low, high = sampling.guidance_range
    times = time_grid(sampling.steps, shift)
    x = torch.stack([grid.to(denoiser.device, torch.float32) for grid in noise])
    for step, (time, following) in enumerate(pairwise(times)):
        guided = sampling.guidance > 1 and low <= step / sampling.steps <= high
        texts = [*prompts, *[negative] * len(x)] if guided else list(prompts)
        state = x.repeat(1 + guided, 1, 1, 1)
        velocities = torch.stack(denoiser(list(state), time.expand(len(state)), texts))
        conditional, without = velocities[: len(x)], velocities[len(x) :] if guided else None
        used = conditional if without is None else without + sampling.guidance * (conditional - without)
        if watch is not None:
            watch(float(time), x, used, conditional, without)
        x = x + float(following - time) * used
    return list(x)
