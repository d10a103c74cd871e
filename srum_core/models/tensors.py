"""Between images, latents and rows of tokens: small steps that adapters have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers.models.embeddings import get_timestep_embedding
from einops import rearrange
from PIL import Image
from torch import Tensor, nn


def pad_rows(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows (t_i, …) -> (n, max t, …) filled with zeros, and which entries are real, (n, max t)."""
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    padded = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return padded, torch.arange(padded.shape[1], device=padded.device)[None] < lengths[:, None]


def by_shape(images: Sequence[Tensor], encode: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """`encode` batches of equal shape, (n, …) -> (n, …), so that none sees another's padding."""
    out: list[Tensor] = [torch.empty(0)] * len(images)
    for shape in dict.fromkeys(image.shape for image in images):
        places = [place for place, image in enumerate(images) if image.shape == shape]
        for place, encoded in zip(places, encode(torch.stack([images[place] for place in places])), strict=True):
            out[place] = encoded
    return out


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.uint8).copy())
    return (pixels.permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in about [-1, 1] -> RGB; clamped, then truncated to whole levels as BAGEL and Show-o2 do."""
    levels = (pixels.float() * 0.5 + 0.5).clamp(0, 1) * 255
    return Image.fromarray(levels.permute(1, 2, 0).to(torch.uint8).cpu().numpy())


def patchify(latents: Tensor, patch: int) -> Tensor:
    """(n, channels, h·p, w·p) -> grid (n, h, w, p·p·channels), ordered (row in patch, column in patch, channel)."""
    return rearrange(latents, "n c (h p) (w q) -> n h w (p q c)", p=patch, q=patch)


def unpatchify(grid: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify`."""
    return rearrange(grid, "n h w (p q c) -> n c (h p) (w q)", p=patch, q=patch)


class TimeEmbedder(nn.Module):
    """Time in [0, 1] (not multiplied by 1000) -> (n, hidden), through 128 cosines and 128 sines."""

    def __init__(self, hidden: int, width: int = 256) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, time: Tensor) -> Tensor:
        waves = get_timestep_embedding(time.float(), self.width, flip_sin_to_cos=True, downscale_freq_shift=0)
        embedded: Tensor = self.mlp(waves.to(next(self.mlp.parameters()).dtype))
        return embedded
