"""The feature tower, EVA-CLIP-E+, which encodes the head's targets. A transformer with norms after the branches."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from attrs import frozen
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from srum_core.errors import CheckpointError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of CLIP's training images: red, green, blue."""


@frozen
class Preset:
    """The sizes that a name in `gen_vision_tower` stands for."""

    head_width: int
    """Width of an attention head; the weights do not show it."""
    grid: int
    """Patches per side; known here, so that images can be generated without the tower's weights."""


PRESETS = {"eva-clip-E-14-plus": Preset(head_width=112, grid=32)}


@frozen
class Sizes:
    """The sizes of a tower."""

    width: int
    patch: int
    grid: int
    """Patches per side."""
    blocks: int
    heads: int
    mlp: int

    @property
    def image(self) -> int:
        """Pixels per side of its input images."""
        return self.patch * self.grid


def read_sizes(shapes: Mapping[str, Sequence[int]], heads: int) -> Sizes:
    """Read the sizes from the tower's names and shapes. Raises CheckpointError if they are not of such a tower."""
    try:
        width, _, patch, _ = shapes["patch_embed.proj.weight"]
        positions = shapes["pos_embed"][1] - 1
        mlp = shapes["blocks.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"The feature tower's weights are incomplete: {error} is missing or invalid.") from error
    grid = math.isqrt(positions)
    if grid * grid != positions or width % heads:
        raise CheckpointError(
            f"A feature tower of {positions} positions, width {width} and {heads} heads is not possible."
        )
    numbers = {int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))}
    return Sizes(width, patch, grid, len(numbers), heads, mlp)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "n t (three h d) -> three n h t d", three=3, h=self.heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "n h t d -> n t (h d)"))


class _Block(nn.Module):
    """x + norm(f(x)), twice: the norm is after the branch, not before it."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(sizes.width, eps=1e-6) for _ in range(2))
        self.attn = _Attention(sizes.width, sizes.heads)
        layers = {"fc1": nn.Linear(sizes.width, sizes.mlp), "act": nn.GELU(), "fc2": nn.Linear(sizes.mlp, sizes.width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp(x))


class Tower(nn.Module):
    """The tower, with names as stored; without rotary positions, final norm and projection."""

    def __init__(self, sizes: Sizes, stride: int = 1) -> None:
        """`stride`: patches per side of a feature token."""
        super().__init__()
        self.sizes, self.stride = sizes, stride
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.grid**2, sizes.width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch)})
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.blocks))

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, side, side) as `preprocess` makes them -> features (n, patches, width), row-major."""
        patches = rearrange(self.patch_embed["proj"](images.to(self.cls_token)), "n c h w -> n (h w) c")
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]

    def features(self, images: Tensor) -> Tensor:
        """Average features over stride x stride patches: grids (n, rows, columns, width)."""
        square = rearrange(self(images), "n (h w) c -> n c h w", h=self.sizes.grid)
        return rearrange(F.avg_pool2d(square, self.stride), "n c h w -> n h w c")


def preprocess(image: Image.Image, side: int) -> Tensor:
    """Resize the short side to `side` and crop the middle square: (3, side, side).

    Offsets round half to even, as in torchvision; transformers' crop is a pixel off for odd margins."""
    short = min(image.size)
    width, height = (side if length == short else int(side * length / short) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    resized = image if (width, height) == image.size else image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
    mean, std = np.asarray(MEAN, dtype=np.float32), np.asarray(STD, dtype=np.float32)
    return torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)
