"""Pretraining of the image tower alone, to tell what covers each patch, as a SigLIP tower is pretrained.

The exact checker labels every patch of clean and damaged images; the linear head on the tower is not kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.fit import as_tensor
from srum_benchmarks.shapes.checker import FIRM, SMALLEST, Pixels, colours, components, recognise
from srum_benchmarks.shapes.world import COLOURS, SHAPES

BACKGROUND = len(COLOURS) * (len(SHAPES) + 1)
"""The label of a patch without a thing; that of a thing is colour × 5 + shape, where shape 4 is a blob."""


def patch_labels(image: Pixels, patch: int, small: bool = False) -> NDArray[np.int64]:
    """Label each patch of a (side, side, 3) image, row by row, with the thing that has most pixels in it, at least a
    quarter. `small`: an image of the crowded world."""
    colour, strength = colours(image)
    covered = np.full(colour.shape, BACKGROUND)
    for area in components(colour):
        if area.sum() < SMALLEST:
            continue
        shape = recognise(area, small)[0] if strength[area].mean() >= FIRM else None
        shape_index = len(SHAPES) if shape is None else SHAPES.index(shape)
        covered[area] = int(colour[area][0]) * (len(SHAPES) + 1) + shape_index
    side = len(image) // patch
    pixels = covered.reshape(side, patch, side, patch).swapaxes(1, 2).reshape(side * side, patch * patch)
    counts = (pixels[:, :, None] == np.arange(BACKGROUND)).sum(1)
    return np.where(counts.max(1) * 4 >= patch * patch, counts.argmax(1), BACKGROUND)


class Sight(nn.Module):
    """The tower with a head that classifies what covers each patch."""

    def __init__(self, tower: nn.Module, width: int) -> None:
        super().__init__()
        self.tower, self.head = tower, nn.Linear(width, BACKGROUND + 1)

    @classmethod
    def of(cls, model: Any) -> Sight:
        """Create it for a BAGEL's tower, on its device."""
        tower = model.eye.vit_model
        return cls(tower, tower.vision_model.post_layernorm.normalized_shape[0]).to(model.denoiser.device)

    def loss(self, patches: Tensor, labels: Tensor, head_only: bool = False) -> tuple[Tensor, Tensor]:
        """Return cross-entropy, and the share of covered patches with the right label.

        patches     (n, t, values); labels (n, t)
        head_only   the tower gets no gradient"""
        where = torch.arange(patches.shape[1], device=patches.device).expand(patches.shape[:2])
        features = self.tower(patches, where, torch.ones_like(where, dtype=torch.bool))
        logits = self.head(features.detach() if head_only else features).float()
        covered = labels != BACKGROUND
        right = (logits.argmax(-1) == labels)[covered].float().mean()
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten()), right


def patches_of(model: Any, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Images (n, side, side, 3) and their patches' labels -> (n, t, values) and labels, on a BAGEL's device."""
    device = model.denoiser.device
    patches = [model.eye.patches(each)[0] for each in as_tensor(images).to(device)]
    return torch.stack(patches), torch.from_numpy(labels).to(device)
