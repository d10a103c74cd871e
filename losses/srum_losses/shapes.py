"""Exact shapes of regions: run lengths as pixels, where outlines run, and which points lie inside."""

from __future__ import annotations

import torch
from torch import Tensor

from srum_core.records import Mask


def decode(mask: Mask) -> Tensor:
    """The shape's pixels, bool (height, width)."""
    width, height = mask.size
    lengths = torch.tensor(mask.counts, dtype=torch.long)
    inside = torch.arange(len(lengths)) % 2 == 1
    return inside.repeat_interleave(lengths, output_size=width * height).view(width, height).T


def share(mask: Mask) -> float:
    """How much of the picture the shape covers, in [0, 1]."""
    return sum(mask.counts[1::2]) / max(mask.size[0] * mask.size[1], 1)


def outline(pixels: Tensor) -> tuple[list[float], list[float]]:
    """The heights and the distances from the left, as fractions, across which the shape changes."""
    return _changes(pixels), _changes(pixels.T)


def _changes(lines: Tensor) -> list[float]:
    differs = (lines[1:] != lines[:-1]).any(dim=1)
    return [(line + 1) / len(lines) for line in differs.nonzero().flatten().tolist()]


def holds(pixels: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """Which of the points ys x xs (fractions) lie inside: bool (points down, points across)."""
    rows, columns = pixels.shape
    if not pixels.numel():
        return torch.zeros(len(ys), len(xs), dtype=torch.bool)
    down, across = (ys * rows).long().clamp(max=rows - 1), (xs * columns).long().clamp(max=columns - 1)
    return pixels[down[:, None], across]
