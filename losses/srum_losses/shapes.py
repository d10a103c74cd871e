"""Exact shapes of regions: run lengths as pixels, where outlines run, and which points lie inside."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from srum_core.records import Mask

Array = NDArray[Any]


def decode(mask: Mask) -> Array:
    """The shape's pixels, bool (height, width)."""
    width, height = mask.size
    inside = np.arange(len(mask.counts)) % 2 == 1
    pixels: Array = inside.repeat(mask.counts).reshape(width, height)
    return pixels.T


def share(mask: Mask) -> float:
    """How much of the image the shape covers, in [0, 1]."""
    return sum(mask.counts[1::2]) / max(mask.size[0] * mask.size[1], 1)


def outline(pixels: Array) -> tuple[list[float], list[float]]:
    """The heights and the distances from the left, as fractions, across which the shape changes."""
    return _changes(pixels), _changes(pixels.T)


def _changes(lines: Array) -> list[float]:
    differs = (lines[1:] != lines[:-1]).any(axis=1)
    return [(line + 1) / len(lines) for line in differs.nonzero()[0].tolist()]


def holds(pixels: Array, ys: Array, xs: Array) -> Array:
    """Which of the points ys x xs (fractions) lie inside: bool (points down, points across)."""
    rows, columns = pixels.shape
    if not pixels.size:
        return np.zeros((len(ys), len(xs)), dtype=bool)
    down, across = (ys * rows).astype(int).clip(max=rows - 1), (xs * columns).astype(int).clip(max=columns - 1)
    return pixels[np.ix_(down, across)]
