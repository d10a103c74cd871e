"""Image sizes and pixels as BAGEL wants them, and the tower that it looks with: SigLIP's encoder on images of any size,
then a two-layer connector. The resize is bit-exact with the reference's, through PIL's bicubic filter."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from attrs import field, frozen, validators
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.activations import ACT2FN
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from srum_bagel.attention import PositionTable, pad_rows
from srum_core.errors import CheckpointError


@frozen
class SizeRule:
    """Longest side at most `longest`, shortest at least `shortest` (small images grow), steps of `stride` pixels."""

    longest: int = field(validator=validators.ge(1))
    shortest: int = field(validator=validators.ge(1))
    stride: int = field(validator=validators.ge(1))
    max_pixels: int = 14 * 14 * 9 * 1024

    def __call__(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the resize. Rounds half to even; the area limit is applied as a linear factor, as
        the reference does (it shrinks more than it has to)."""
        scale = min(self.longest / max(width, height), 1.0)
        scale = max(scale, self.shortest / min(width, height))
        new_w, new_h = self._fit(width, height, scale)
        if new_w * new_h > self.max_pixels:
            new_w, new_h = self._fit(new_w, new_h, self.max_pixels / (new_w * new_h))
        if max(new_w, new_h) > self.longest:
            new_w, new_h = self._fit(new_w, new_h, self.longest / max(new_w, new_h))
        return new_w, new_h

    def _fit(self, width: int, height: int, scale: float) -> tuple[int, int]:
        def snap(side: int) -> int:
            return max(self.stride, int(round(round(side * scale) / self.stride) * self.stride))

        return snap(width), snap(height)

    def resize(self, image: Image.Image) -> Image.Image:
        size = self(*image.size)
        return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def size_rule(sides: tuple[int, int], stride: int, table: int) -> SizeRule:
    """The rule for (longest, shortest) sides in pixels, kept inside a position table of `table` strides."""
    longest, shortest = (min(side, table * stride) for side in sides)
    return SizeRule(longest, shortest, stride)


def latent_grid(size: tuple[int, int], stride: int, table: int) -> tuple[int, int]:
    """(rows, columns) of the latent grid of a (width, height) image, of cells of `stride` pixels; a side of 0 is 1024,
    or the most that a position table of `table` cells allows. Raises CheckpointError for sides that do not fit."""
    most = table * stride
    width, height = (side or min(1024, most) for side in size)
    if min(width, height) < stride or max(width, height) > most or width % stride or height % stride:
        raise CheckpointError(
            f"adapter.size {width}x{height} cannot be drawn by this checkpoint: both sides must be multiples of "
            f"{stride} up to {most}."
        )
    return height // stride, width // stride


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.uint8).copy())
    return (pixels.permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def to_image(image: Tensor) -> Image.Image:
    """(3, H, W) in about [-1, 1] -> RGB; clamped, then truncated to whole levels as the reference does."""
    levels = (image.float() * 0.5 + 0.5).clamp(0, 1) * 255
    return Image.fromarray(levels.permute(1, 2, 0).to(torch.uint8).cpu().numpy())


# ---- the tower -------------------------------------------------------------------------------------------------------


class VisionTower(nn.Module):
    """SigLIP without its pooling head."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        patch, side = cast(int, config.patch_size), cast(int, config.image_size)
        embeddings = {
            "patch_embedding": nn.Linear(config.num_channels * patch**2, config.hidden_size),
            # Its rows are `row * table side + column`, whatever the image's own width.
            "position_embedding": nn.Embedding((side // patch) ** 2, config.hidden_size),
        }
        parts = {
            "embeddings": nn.ModuleDict(embeddings),
            "encoder": SiglipEncoder(cast(Any, config)),  # it reads the vision sizes only
            "post_layernorm": nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps),
        }
        self.vision_model: Any = nn.ModuleDict(parts)

    def forward(self, patches: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """`patches` (n, t, 3·p·p), table rows `positions` (n, t), `valid` (n, t) -> (n, t, width)."""
        parts = self.vision_model
        hidden = parts.embeddings.patch_embedding(patches) + parts.embeddings.position_embedding(positions)
        mask = None
        if not bool(valid.all()):
            mask = torch.zeros(valid.shape, dtype=hidden.dtype, device=hidden.device)
            mask = mask.masked_fill(~valid, torch.finfo(hidden.dtype).min)[:, None, None, :]
            mask = mask.expand(-1, 1, valid.shape[1], -1)
        return parts.post_layernorm(parts.encoder(inputs_embeds=hidden, attention_mask=mask).last_hidden_state)


class Eye(nn.Module):
    """What only understanding needs; names as in the checkpoint."""

    def __init__(self, config: SiglipVisionConfig, hidden: int, side: int) -> None:
        super().__init__()
        self.patch, self.side = cast(int, config.patch_size), side
        self.vit_model = VisionTower(config)
        self.connector = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(config.hidden_size, hidden),
                activation=ACT2FN["gelu_pytorch_tanh"],
                fc2=nn.Linear(hidden, hidden),
            )
        )
        self.vit_pos_embed = PositionTable(side, hidden)

    def patches(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(3, H, W) -> patches (t, p·p·3), ordered (row, column, channel) inside, and their table rows (t,)."""
        rows, columns = image.shape[1] // self.patch, image.shape[2] // self.patch
        if max(rows, columns) > self.side:
            raise CheckpointError(
                f"An image of {rows} x {columns} patches does not fit this checkpoint's position table of "
                f"{self.side} x {self.side}: look at smaller images (adapter.vision_sides)."
            )
        patches = rearrange(image, "c (h p) (w q) -> (h w) (p q c)", p=self.patch, q=self.patch)
        grid = torch.arange(rows)[:, None] * self.side + torch.arange(columns)[None, :]
        return patches, grid.flatten().to(image.device)

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Images (3, H, W) in [-1, 1] -> tokens for the language model, (t, hidden) each."""
        split = [self.patches(image) for image in images]
        table = self.vit_pos_embed.pos_embed
        patches, valid = pad_rows([patch.to(table.dtype) for patch, _ in split])
        positions, _ = pad_rows([position for _, position in split])
        tokens = self.connector(self.vit_model(patches, positions, valid)) + table[positions]
        return [row[: len(patch)] for row, (patch, _) in zip(tokens, split, strict=True)]
