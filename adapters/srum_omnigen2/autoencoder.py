"""Images and latents: sizes, pixels, and grids of tokens. The autoencoder itself is diffusers' `AutoencoderKL`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE_STEP = 16
"""Sides of training images are multiples of this, for any autoencoder."""


def fitted_size(size: tuple[int, int], most: int, longest: int, step: int) -> tuple[int, int]:
    """(width, height) of an image before it is encoded: never larger, at most `most` pixels and `longest` a side, and
    each side rounded down to a multiple of `step`, which changes the aspect ratio."""
    width, height = size
    ratio = min(1.0, (most / (width * height)) ** 0.5, longest / max(width, height))
    return max(step, int(width * ratio) // step * step), max(step, int(height * ratio) // step * step)


def to_tensor(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """(3, H, W) in [-1, 1] of an RGB image, resized whole to (width, height)."""
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
