"""Losses on a `FlowStep`. Every mean is over all cells and channels of the step, so larger pictures weigh more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from srum_losses import SrumOptions

if TYPE_CHECKING:
    from srum_core.flow import FlowStep


class SrumLoss:
    """L_r + lambda_c * L_ref (equation 3), with

    L_r   = mean of weight * (velocity - target)^2       (equation 1; the weight is the reward map alpha * R)
    L_ref = mean of (velocity - reference)^2             (equation 2)

    `constraint` is lambda_c: a cell's net coefficient is its weight + constraint where reference and target agree.
    """

    def __init__(self, options: SrumOptions | None = None) -> None:
        self.constraint = (options or SrumOptions()).constraint

    def __call__(self, step: FlowStep) -> tuple[Tensor, Mapping[str, Tensor]]:
        error = _squared(step.velocity, step.target)
        weight = torch.cat([cells.reshape(-1, 1) for cells in step.weight]).float()
        reward = (weight * error).mean()
        paired = any(other is not own for other, own in zip(step.reference, step.target, strict=True))
        reference = _squared(step.velocity, step.reference).mean() if paired else error.mean()
        total = reward + self.constraint * reference
        return total, {"reward": reward.detach(), "reference": reference.detach()}


class SftLoss:
    """Mean of (velocity - target)^2: supervised fine-tuning on the model's own pictures; weights are ignored.

    Its coefficient is 1 in every cell. `constraint` is 1 so that weight + constraint, which is what the guard against
    net-negative cells looks at, is never negative for any map.
    """

    constraint = 1.0

    def __call__(self, step: FlowStep) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss = _squared(step.velocity, step.target).mean()
        return loss, {"error": loss.detach()}


def _squared(values: Sequence[Tensor], goals: Sequence[Tensor]) -> Tensor:
    """Squared differences of all cells of all pictures in float32, whatever autocast is doing: (cells, channels)."""
    errors = [(value.float() - goal.float()).square() for value, goal in zip(values, goals, strict=True)]
    return torch.cat([rearrange(error, "rows columns c -> (rows columns) c") for error in errors])
