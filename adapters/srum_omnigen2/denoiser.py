"""The diffusion transformer: diffusers' Lumina 2 blocks under the published names. What no library has is written here:
text on the diagonal of the rotary positions, and texts, reference images and images of any sizes in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from attrs import frozen
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.normalization import LuminaLayerNormContinuous
from diffusers.models.transformers.transformer_lumina2 import (
    Lumina2CombinedTimestepCaptionEmbedding,
    Lumina2TransformerBlock,
)
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

REFERENCES = 5
"""Most reference images of an image: rows of the table `image_index_embedding`."""


@frozen
class Sizes:
    """The sizes of a transformer; names as in its config.json."""

    patch_size: int
    in_channels: int
    out_channels: int
    hidden_size: int
    num_layers: int
    num_refiner_layers: int
    num_attention_heads: int
    num_kv_heads: int
    multiple_of: int
    ffn_dim_multiplier: float | None
    norm_eps: float
    axes_dim_rope: tuple[int, ...]
    text_feat_dim: int
    timestep_scale: float

    @property
    def cell(self) -> int:
        """Values per token: a square of latent cells, ordered (row, column, channel)."""
        return self.patch_size**2 * self.in_channels


class Denoiser(nn.Module):
    """Velocities of latent grids given texts.

    `references`: create the weights for reference images, which text-to-image generation does not use."""

    def __init__(self, sizes: Sizes, references: bool = False) -> None:
        super().__init__()
        self.sizes, width = sizes, sizes.hidden_size

        def blocks(count: int, timed: bool = True) -> nn.ModuleList:
            sizes_of_block: Any = (width, sizes.num_attention_heads, sizes.num_kv_heads, sizes.multiple_of)
            options: Any = (sizes.ffn_dim_multiplier, sizes.norm_eps, timed)
            return nn.ModuleList(Lumina2TransformerBlock(*sizes_of_block, *options) for _ in range(count))

        self.x_embedder = nn.Linear(sizes.cell, width)
        embed: Any = Lumina2CombinedTimestepCaptionEmbedding(width, sizes.text_feat_dim, norm_eps=sizes.norm_eps)
        # As in the reference, scale after the product with the frequencies: scaling before it loses digits.
        embed.time_proj.scale = sizes.timestep_scale
        self.time_caption_embed = embed
        self.noise_refiner = blocks(sizes.num_refiner_layers)
        self.context_refiner = blocks(sizes.num_refiner_layers, timed=False)
        self.layers = blocks(sizes.num_layers)
        out = sizes.patch_size**2 * sizes.out_channels
        self.norm_out = LuminaLayerNormContinuous(
            width, min(width, 1024), elementwise_affine=False, eps=1e-6, out_dim=out
        )
        if references:
            self.ref_image_patch_embedder = nn.Linear(sizes.cell, width)
            self.image_index_embedding = nn.Parameter(torch.zeros(REFERENCES, width))
            self.ref_image_refiner = blocks(sizes.num_refiner_layers)

    @property
    def device(self) -> torch.device:
        return self.x_embedder.weight.device

    def forward(
        self,
        noisy: Sequence[Tensor],
        time: Tensor,
        condition: Sequence[Tensor],
        references: Sequence[Sequence[Tensor]] | None = None,
    ) -> list[Tensor]:
        """Noisy grids (h, w, c), time (n,), condition = hidden states (t, text width) per image, references = clean
        grids per image -> velocities.

        The transformer's time runs from noise (0) to clean (1), and it predicts clean - noise; both are converted here.
        """
        reference_time = (1 - time).to(self.device, torch.float32)
        clean_minus_noise = self.predict(noisy, reference_time, condition, references or [()] * len(noisy))
        return [-velocity.to(grid.dtype) for velocity, grid in zip(clean_minus_noise, noisy, strict=True)]

    def predict(
        self,
        grids: Sequence[Tensor],
        reference_time: Tensor,
        texts: Sequence[Tensor],
        references: Sequence[Sequence[Tensor]],
    ) -> list[Tensor]:
        """Predict clean - noise, the reference's convention, at `reference_time` (n,), 0 for noise."""
        text, text_mask = _padded([states.to(self.x_embedder.weight) for states in texts])
        images, images_mask = _padded([self._tokens(grid) for grid in grids])
        time, text = self.time_caption_embed(images, reference_time, text)
        images = self.x_embedder(images)
        rotations = self._rotations([len(states) for states in texts], references, grids)

        rotary = pad_sequence([each[0] for each in rotations], batch_first=True)
        for block in self.context_refiner:
            text = block(text, text_mask, rotary)
        rotary = pad_sequence([each[-1] for each in rotations], batch_first=True)
        for block in self.noise_refiner:
            images = block(images, images_mask, rotary, time)
        refined = self._refine_references(references, [each[1:-1] for each in rotations], time)

        # A row is its text, its references and its image without gaps, then padding.
        lengths = [(len(states), grid.shape[0] * grid.shape[1]) for states, grid in zip(texts, grids, strict=True)]
        rows = [
            torch.cat([text[i, :tokens], *refined[i], images[i, :cells]]) for i, (tokens, cells) in enumerate(lengths)
        ]
        hidden, mask = _padded(rows)
        rotary = pad_sequence([torch.cat(each) for each in rotations], batch_first=True)
        for block in self.layers:
            hidden = block(hidden, mask, rotary, time)
        out = self.norm_out(hidden, time)
        return [
            rearrange(out[i, len(row) - cells : len(row)], "(h w) c -> h w c", h=grid.shape[0])
            for i, (row, (_, cells), grid) in enumerate(zip(rows, lengths, grids, strict=True))
        ]

    def _refine_references(
        self, references: Sequence[Sequence[Tensor]], rotations: Sequence[Sequence[Tensor]], time: Tensor
    ) -> list[list[Tensor]]:
        """Return the tokens of every row's reference images; an image attends only to itself."""
        owners = [(row, number) for row, images in enumerate(references) for number in range(len(images))]
        out: list[list[Tensor]] = [[] for _ in references]
        if not owners:
            return out
        tokens, mask = _padded([self._tokens(references[row][number]) for row, number in owners])
        numbers = torch.tensor([number for _, number in owners], device=self.device)
        hidden = self.ref_image_patch_embedder(tokens) + self.image_index_embedding[numbers][:, None]
        rotary = pad_sequence([rotations[row][number] for row, number in owners], batch_first=True)
        times = time[torch.tensor([row for row, _ in owners], device=self.device)]
        for block in self.ref_image_refiner:
            hidden = block(hidden, mask, rotary, times)
        for (row, number), states in zip(owners, hidden, strict=True):
            out[row].append(states[: len(rotations[row][number])])
        return out

    def _tokens(self, grid: Tensor) -> Tensor:
        return rearrange(grid, "h w c -> (h w) c").to(self.x_embedder.weight)

    def _rotations(
        self, texts: Sequence[int], references: Sequence[Sequence[Tensor]], images: Sequence[Tensor]
    ) -> list[list[Tensor]]:
        """Return rotations (tokens, half a head), complex64, of every row's text, of each reference, and of the image.

        Text token i is at (i, i, i), an image at (start, row, column), where start is after all tokens before it."""
        shapes = [[grid.shape[:2] for grid in (*few, image)] for few, image in zip(references, images, strict=True)]
        count = max(text + sum(map(max, grids)) for text, grids in zip(texts, shapes, strict=True))
        tables = [_waves(width, 1 << count.bit_length()).to(self.device) for width in self.sizes.axes_dim_rope]
        out: list[list[Tensor]] = []
        for text, grids in zip(texts, shapes, strict=True):
            row, start = [torch.cat([table[:text] for table in tables], dim=-1)], text
            for rows, columns in grids:
                parts = (tables[0][start, None, None], tables[1][:rows, None], tables[2][None, :columns])
                row.append(torch.cat([part.expand(rows, columns, -1) for part in parts], dim=-1).flatten(0, 1))
                start += max(rows, columns)
            out.append(row)
        return out


@lru_cache(maxsize=64)
def _waves(width: int, count: int) -> Tensor:
    """Return rotations of positions 0 … count - 1 on an axis, (count, width / 2); angles in float64, on the CPU."""
    positions: Any = torch.arange(count, device="cpu")  # declared as numpy's; torch's works
    return get_1d_rotary_pos_embed(width, positions, theta=10000, freqs_dtype=torch.float64).to(torch.complex64)


def _padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Pad rows (t, c) on the right; return them and a mask that is true on real tokens, or None without padding."""
    lengths = [len(row) for row in rows]
    padded = pad_sequence(list(rows), batch_first=True)
    if min(lengths) == max(lengths):
        return padded, None
    real = torch.tensor(lengths, device=padded.device)[:, None]
    return padded, torch.arange(max(lengths), device=padded.device) < real
