"""The FLUX autoencoder in its original key naming, built from diffusers' `AutoencoderKL`.

Sizes are read from the weights: the published layout has no file that states them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from diffusers import AutoencoderKL
from torch import Tensor, nn

# diffusers' name -> the original one; applied in order to the whole key.
_RENAMES = (
    (r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    (r"up_blocks\.(\d+)\.resnets\.(\d+)", r"up.\1.block.\2"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)


@frozen
class AutoencoderSizes:
    """Channel widths per level from full resolution downwards, residual blocks a level, latent channels."""

    widths: tuple[int, ...]
    blocks: int
    channels: int

    @property
    def factor(self) -> int:
        """Pixels per latent cell side."""
        return 2 ** (len(self.widths) - 1)

    def patch(self, cell: int) -> int:
        """Side of a model's latent cell of `cell` values, in latent pixels."""
        return round((cell / self.channels) ** 0.5)


def autoencoder_sizes(shapes: Mapping[str, Sequence[int]]) -> AutoencoderSizes:
    """Sizes out of the shapes of an `ae.safetensors` file."""
    levels = 1 + sum(key.endswith("downsample.conv.weight") for key in shapes)
    widths = tuple(shapes[f"decoder.up.{level}.block.0.conv2.weight"][0] for level in range(levels))
    blocks = len({m[1] for key in shapes if (m := re.match(r"decoder\.up\.0\.block\.(\d+)\.", key))}) - 1
    return AutoencoderSizes(widths, blocks, shapes["decoder.conv_in.weight"][1])


class Autoencoder(nn.Module):
    """Images (n, 3, H, W) in [-1, 1] <-> latents (n, channels, H / factor, W / factor), scaled and shifted."""

    def __init__(self, sizes: AutoencoderSizes, scale: float = 0.3611, shift: float = 0.1159) -> None:
        super().__init__()
        self.sizes, self.scale, self.shift = sizes, scale, shift
        levels = len(sizes.widths)
        self.net: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=sizes.widths,
            layers_per_block=sizes.blocks,
            latent_channels=sizes.channels,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )

    def official_keys(self) -> dict[str, str]:
        """Own parameter name -> name in `ae.safetensors`, where `decoder.up` counts by resolution level; diffusers
        counts by order of use."""
        names, last = {}, len(self.sizes.widths) - 1
        for key in self.state_dict():
            name = key.removeprefix("net.")
            for pattern, official in _RENAMES:
                name = re.sub(pattern, official, name)
            names[key] = re.sub(r"decoder\.up\.(\d+)", lambda m: f"decoder.up.{last - int(m[1])}", name)
        return names

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the unscaled latent."""
        mean, log_variance = self.net.encoder(images).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """The latent of the posterior's mean, or its sample with the given standard-normal `noise`."""
        mean, log_variance = self.posterior(images)
        z = mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise
        return self.scale * (z - self.shift)

    def decode(self, latents: Tensor) -> Tensor:
        return self.net.decoder(latents / self.scale + self.shift)
