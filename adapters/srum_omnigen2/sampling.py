"""Encode texts and images for the transformer, and sample images: Euler steps over shifted times, with guidance in a
range of steps. The autoencoder is diffusers' `AutoencoderKL`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srum_core.models.qwen_vl import Chat
from srum_omnigen2.denoiser import Denoiser
from srum_omnigen2.options import Sampling

GENERATE = "You are a helpful assistant that generates high-quality images based on user instructions."
DROPPED = "You are a helpful assistant that generates images."
"""System prompt of a dropped caption; its user text is empty."""
READ_AT_ONCE = 16
"""Texts whose states are computed in one batch."""
SIDE_STEP = 16
"""Sides of training images are multiples of this, whatever the autoencoder."""
Watch = Callable[[float, Tensor, Tensor, Tensor, Tensor | None], None]
"""Called at each step with the time, the state, and the velocities: used, for the prompt, for the negative one."""


# ---- texts -----------------------------------------------------------------------------------------------------------


def prompt_ids(chat: Chat, text: str | None, limit: int) -> list[int]:
    """Return a prompt's ids; None is a dropped caption. A long prompt is truncated; the turns around it stay."""
    system = chat.turn("system", DROPPED if text is None else GENERATE)
    return [*system, *chat.turn("user", text or "", room=limit - len(system))]


@torch.no_grad()
def read(text_model: Any, rows: Sequence[Sequence[int]], pad: int) -> list[Tensor]:
    """Return hidden states after the final norm, (tokens, hidden), of each text; texts do not attend to each other."""
    out: list[Tensor] = []
    for start in range(0, len(rows), READ_AT_ONCE):
        chunk = rows[start : start + READ_AT_ONCE]
        longest, device = max(map(len, chunk)), text_model.device
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in chunk], device=device)
        places = torch.arange(longest, device=device).expand_as(ids)
        mask = (places < torch.tensor([[len(row)] for row in chunk], device=device)).long()
        output = text_model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False)
        out += [states[: len(row)] for states, row in zip(output.last_hidden_state, chunk, strict=True)]
    return out


# ---- images ----------------------------------------------------------------------------------------------------------


def fitted_size(size: tuple[int, int], most: int, longest: int, step: int) -> tuple[int, int]:
    """Return the (width, height) to encode an image at: never larger, at most `most` pixels and `longest` per side.
    Sides are rounded down to multiples of `step`, which changes the aspect ratio."""
    width, height = size
    ratio = min(1.0, (most / (width * height)) ** 0.5, longest / max(width, height))
    return max(step, int(width * ratio) // step * step), max(step, int(height * ratio) // step * step)


def to_tensor(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Resize an RGB image to (width, height), and return (3, H, W) in [-1, 1]."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1) * 2 - 1


@torch.no_grad()
def encode(autoencoder: Any, images: Tensor) -> Tensor:
    """Images (n, 3, H, W) in [-1, 1] -> latents (n, c, h, w) from the posterior's mean, shifted and scaled."""
    mean = autoencoder.encode(images).latent_dist.mode()
    return (mean.float() - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor


@torch.no_grad()
def decode(autoencoder: Any, latents: Tensor) -> Tensor:
    """Latents (n, c, h, w) -> images (n, 3, H, W) in [0, 1]."""
    z = latents.float() / autoencoder.config.scaling_factor + autoencoder.config.shift_factor
    return (autoencoder.decode(z, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)


# ---- sampling --------------------------------------------------------------------------------------------------------


def sampling_shift(rows: int, columns: int) -> float:
    """Return the shift of the sampling times for a grid of latent cells (not tokens)."""
    return math.sqrt(rows * columns) / 40


def training_shift(tokens: int, version: str) -> float:
    """Return the shift of the training times for the tokens per image; "v1" is the official recipe's."""
    return math.exp(0.5 + 0.65 * (tokens - 256) / 3840) if version == "v1" else math.sqrt(tokens) / 20


def time_grid(steps: int, shift: float) -> Tensor:
    """Return the times, float64 (steps + 1,) on the CPU, from 1 (noise) to 0 (clean)."""
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
        velocity = conditional if without is None else without + sampling.guidance * (conditional - without)
        if watch is not None:
            watch(float(time), x, velocity, conditional, without)
        x = x + float(following - time) * velocity
    return list(x)
