"""Wan2.1's video autoencoder for clips of one frame, with diffusers' class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from torch import Tensor, nn

ORIGINAL = "encoder.conv1.weight"
"""A name that occurs only in the original file."""


class Autoencoder(nn.Module):
    """Images (n, 3, H, W) in [-1, 1] <-> latents (n, channels, H / 8, W / 8), normalised by channel."""

    FACTOR = 8
    """Pixels per side of a latent pixel."""

    def __init__(self, width: int = 96, channels: int = 16) -> None:
        super().__init__()
        self.net: Any = AutoencoderKLWan(base_dim=width, z_dim=channels)

    def moments(self, images: Tensor) -> Tensor:
        """Return mean and log-variance as stored, (n, 2 · channels, h, w)."""
        return self.net.quant_conv(self.net.encoder(images[:, :, None]))[:, :, 0]

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the posterior's mean, or a sample with `noise`, which is not divided by the channels' deviations, as
        in the reference."""
        mean, log_variance = self.moments(images).chunk(2, dim=1)
        shift, scale = self._constants(mean)
        latent = (mean - shift) / scale
        return latent if noise is None else latent + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise

    def decode(self, latents: Tensor) -> Tensor:
        """Decode to about [-1, 1], not clamped."""
        shift, scale = self._constants(latents)
        return self.net.decoder(self.net.post_quant_conv((latents * scale + shift)[:, :, None]))[:, :, 0]

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each channel of the training images' latents, (channels, 1, 1)."""
        config = self.net.config
        mean, deviation = (
            torch.tensor(each, dtype=like.dtype, device=like.device)[:, None, None]
            for each in (config.latents_mean, config.latents_std)
        )
        return mean, deviation


def converted(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Rename tensors to diffusers' names, from either set of names."""
    return dict(convert_wan_vae_to_diffusers(dict(tensors)) if ORIGINAL in tensors else tensors)
