"""Latents as grids of vectors."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor


def patchify(latents: Tensor, patch: int) -> Tensor:
    """(n, channels, h·p, w·p) -> grid (n, h, w, p·p·channels), ordered (row in patch, column in patch, channel)."""
    return rearrange(latents, "n c (h p) (w q) -> n h w (p q c)", p=patch, q=patch)


def unpatchify(grid: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify`."""
    return rearrange(grid, "n h w (p q c) -> n c (h p) (w q)", p=patch, q=patch)
