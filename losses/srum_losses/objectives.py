"""Losses on a `FlowStep`. Every mean is over all cells and channels of the step, so larger images weigh more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from srum_core.errors import TrainingError
from srum_losses import BoundedOptions, NegativeAwareOptions, SrumOptions

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
        paired = any(other is not own for other, own in zip(step.reference, step.target, strict=True))
        reference = (_squared(step.velocity, step.reference) if paired else error).mean()
        reward = self.reward(step, error).mean()
        total = reward + self.constraint * reference
        return total, {"reward": reward.detach(), "reference": reference.detach()}

    def reward(self, step: FlowStep, error: Tensor) -> Tensor:
        """What L_r is the mean of, out of the squared error (cells, channels)."""
        return _weights(step) * error


class BoundedLoss(SrumLoss):
    """`srum` whose push dies out: in net-negative cells (weight + lambda_c < 0) the reward term is weight * s(e), not
    weight * e, where e is the cell's squared error (mean over channels), e0 that of the model before training, and

    s(e) = e                                                 up to e0
           e0 + m * e0 * (1 - exp(-(e - e0) / (m * e0)))     beyond, m being `margin`

    So training starts out exactly as with `srum`, each cell has its own scale (errors differ much between times and
    places), and the loss of a cell never falls below weight * (1 + m) * e0. The reference term stays as it is and now
    wins in the end: the minimum is at e = e0 * (1 + m * ln(|weight| / lambda_c)) where the reference is the target.
    """

    needs_start = True

    def __init__(self, options: BoundedOptions | None = None) -> None:
        options = options or BoundedOptions()
        self.constraint, self.margin = options.constraint, options.margin

    def reward(self, step: FlowStep, error: Tensor) -> Tensor:
        error = error.mean(1, keepdim=True)
        usual = _squared(_start(step), step.target).mean(1, keepdim=True)
        room = (self.margin * usual).clamp(min=1e-12)
        excess = (error - usual).clamp(min=0)
        saturated = error - excess - room * torch.expm1(-excess / room)
        weight = _weights(step)
        return weight * torch.where(weight + self.constraint < 0, saturated, error)


class NegativeAwareLoss:
    """Negative-aware fine-tuning (DiffusionNFT, arXiv 2509.16117), cell by cell: with v0 the velocity of the model
    before training, r = (weight + 1) / 2 in [0, 1] and b = `beta`,

    r * |(1 - b) * v0 + b * v - target|^2 + (1 - r) * |(1 + b) * v0 - b * v - target|^2     (mean over channels)

    and lambda_c * |v - reference|^2 where `constraint` is set. Quadratic in v, so every cell has one minimum: at
    v0 + weight / b * (target - v0) without a constraint, which is towards the target where the weight is positive, away
    from it where it is negative, v0 where it is 0. With b = 1 the first step's gradient is that of `srum` with
    lambda_c = 0.
    """

    needs_start = True

    def __init__(self, options: NegativeAwareOptions | None = None) -> None:
        options = options or NegativeAwareOptions()
        self.beta, self.reference = options.beta, options.constraint
        self.constraint = options.constraint / options.beta
        """In units of the weight: a cell's minimum is away from its target where weight + constraint < 0."""

    def __call__(self, step: FlowStep) -> tuple[Tensor, Mapping[str, Tensor]]:
        start, beta = _start(step), self.beta
        pairs = [(v0.float(), v.float()) for v0, v in zip(start, step.velocity, strict=True)]
        share = (_weights(step) + 1) / 2
        positive = share * _squared([(1 - beta) * v0 + beta * v for v0, v in pairs], step.target)
        negative = (1 - share) * _squared([(1 + beta) * v0 - beta * v for v0, v in pairs], step.target)
        parts = {"positive": positive.mean(), "negative": negative.mean()}
        total = parts["positive"] + parts["negative"]
        if self.reference:
            parts["reference"] = _squared(step.velocity, step.reference).mean()
            total = total + self.reference * parts["reference"]
        return total, {name: part.detach() for name, part in parts.items()}


class SftLoss:
    """Mean of (velocity - target)^2: supervised fine-tuning on the model's own images; weights are ignored.

    Its coefficient is 1 in every cell. `constraint` is 1 so that weight + constraint, which is what the guard against
    net-negative cells checks, is never negative for any map.
    """

    constraint = 1.0

    def __call__(self, step: FlowStep) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss = _squared(step.velocity, step.target).mean()
        return loss, {"error": loss.detach()}


def _weights(step: FlowStep) -> Tensor:
    """(cells, 1) float32, of all images."""
    return torch.cat([cells.reshape(-1, 1) for cells in step.weight]).float()


def _start(step: FlowStep) -> Sequence[Tensor]:
    """The prediction before training. Raises TrainingError if it was not computed."""
    if step.start is None:
        raise TrainingError(
            "This loss compares with the prediction before training (FlowStep.start), which was not computed:"
            " give flow_step a `start`, such as lora.Start.of(tuned), if you call the loss yourself."
        )
    return step.start


def _squared(values: Sequence[Tensor], goals: Sequence[Tensor]) -> Tensor:
    """Squared differences of all cells of all images in float32, whatever autocast is doing: (cells, channels)."""
    errors = [(value.float() - goal.float()).square() for value, goal in zip(values, goals, strict=True)]
    return torch.cat([rearrange(error, "rows columns c -> (rows columns) c") for error in errors])
