"""Picture sizes and pixels as BAGEL wants them. Bit-exact with the reference's resize through PIL's bicubic filter."""

from __future__ import annotations

import numpy as np
import torch
from attrs import field as attrs_field
from attrs import frozen, validators
from PIL import Image
from torch import Tensor

from srum_core.errors import CheckpointError


@frozen
class SizeRule:
    """Longest side at most `longest`, shortest at least `shortest` (small pictures grow), steps of `stride` pixels."""

    longest: int = attrs_field(validator=validators.ge(1))
    shortest: int = attrs_field(validator=validators.ge(1))
    stride: int = attrs_field(validator=validators.ge(1))
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


def to_image(picture: Tensor) -> Image.Image:
    """(3, H, W) in about [-1, 1] -> RGB; clamped, then truncated to whole levels as the reference does."""
    levels = (picture.float() * 0.5 + 0.5).clamp(0, 1) * 255
    return Image.fromarray(levels.permute(1, 2, 0).to(torch.uint8).cpu().numpy())
