"""Rectified flow on latent grids: noising, targets and the denoiser's velocity, written once for every model.

Time 0 is clean and 1 is noise. A latent is a grid (rows, columns, channels); a batch is a list of them, of any sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from attrs import field, frozen, validators
from torch import Tensor, nn

from srum_core.errors import TrainingError


@frozen
class Schedule:
    """Distribution of training times: from `density` on (0, 1), then shifted towards noise by `shift` (1 = none)."""

    density: Literal["logit-normal", "uniform"] = field(
        default="logit-normal", validator=validators.in_(("logit-normal", "uniform"))
    )
    shift: float = field(default=1.0, validator=validators.gt(0))
    levels: int = field(default=0, validator=validators.ge(0))
    """How many times there are, k / levels up to 1, before the shift (a discrete scheduler's); 0 = all of (0, 1)."""

    def whole(self, time: Tensor) -> Tensor:
        """The next of the `levels` times; without levels the time itself."""
        return (time * self.levels).ceil() / self.levels if self.levels else time

    def warp(self, time: Tensor) -> Tensor:
        """s * t / (1 + (s - 1) * t), s being `shift`: leaves 0 and 1 where they are."""
        return self.shift * time / (1 + (self.shift - 1) * time)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n,) float32 times in (0, 1), or in (0, 1] with `levels`, on the generator's device."""
        if self.density == "uniform":
            time = torch.rand(n, generator=generator, device=generator.device)
        else:
            time = torch.randn(n, generator=generator, device=generator.device).sigmoid()
        # Neither end is a time to train at: t = 0 has nothing to remove, t = 1 nothing to see. (Models with levels have
        # been trained at 1.)
        return self.warp(self.whole(time.clamp(1e-6, 1 - 1e-6)))


@frozen
class Recipe:
    """Facts about training the denoiser that only the adapter knows."""

    blocks: tuple[str, ...]
    """Class names of the repeated layers: recomputed one by one with activation checkpointing, and sharded one by one
    with --launch fsdp2."""
    full: tuple[str, ...]
    """Regular expressions (whole names) of the parameters trained without LoRA. Must leave out what never reaches the
    velocity: every trained parameter has to be used in every step."""
    lora: str
    """Regular expression (whole names, below `prefix`) of the modules that LoRA adapts."""
    schedule: Schedule = Schedule()
    """Distribution of training times; a run's `train.shift` replaces its shift, unless it is 0."""
    prefix: str = ""
    """The submodule that is a library's own model, in a denoiser that wraps one (transformer): LoRA weights are saved
    under that model's names, so that the library's loaders take them."""


@frozen
class FlowStep:
    """One noised batch with predicted and target velocities; one entry per image."""

    velocity: list[Tensor]
    """(rows, columns, channels), with gradient."""
    target: list[Tensor]
    """noise - clean, (rows, columns, channels)."""
    reference: list[Tensor]
    """noise - reference image, for the constraint term; the very same tensors as `target` where there is no pair."""
    weight: list[Tensor]
    """The reward map, (rows, columns) float32."""
    time: Tensor
    """(n,)."""
    start: list[Tensor] | None = None
    """The prediction before this round's training for the same input: (rows, columns, channels), without gradient.
    Only there for a loss with `needs_start`."""


def flow_step(
    denoiser: nn.Module,
    clean: Sequence[Tensor],
    condition: Any,
    time: Tensor,
    weight: Sequence[Tensor] | None,
    noise: Sequence[Tensor] | torch.Generator,
    reference: Sequence[Tensor | None] | None = None,
    start: Callable[..., Sequence[Tensor]] | None = None,
) -> FlowStep:
    """Noise `clean` to `time`, (1 - t) * x0 + t * noise, and ask the denoiser for the velocity, noise - x0.

    clean      latent grids (rows, columns, channels)
    weight     reward maps (rows, columns); None = 1 everywhere
    noise      one grid per image, or the generator to sample them from, image by image
    reference  latents that the constraint term pulls towards; None (also per image) = the image itself
    start      called like the denoiser, before it: the model as it was before training (lora.Start); None = not asked

    Raises TrainingError for a weight or a reference that does not have its image's grid.
    """
    if isinstance(noise, torch.Generator):
        noise = [torch.randn(x.shape, generator=noise, device=noise.device) for x in clean]
    noise = [eps.to(x) for eps, x in zip(noise, clean, strict=True)]
    if weight is None:
        weight = [x.new_ones(x.shape[:2]) for x in clean]
    pulls = [None] * len(clean) if reference is None else reference
    _check_grids(clean, weight, pulls)
    times = time.to(clean[0].device)
    noisy = [(1 - t) * x + t * eps for t, x, eps in zip(times, clean, noise, strict=True)]
    target = [eps - x for x, eps in zip(clean, noise, strict=True)]
    pairs = zip(pulls, noise, target, strict=True)
    began = None if start is None else list(start(noisy, times, condition))
    return FlowStep(
        velocity=list(denoiser(noisy, times, condition)),
        target=target,
        reference=[own if pull is None else eps - pull.to(eps) for pull, eps, own in pairs],
        weight=[cells.to(x.device, torch.float32) for cells, x in zip(weight, clean, strict=True)],
        time=times,
        start=began,
    )


def _check_grids(clean: Sequence[Tensor], weight: Sequence[Tensor], reference: Sequence[Tensor | None]) -> None:
    for index, (x, cells, pull) in enumerate(zip(clean, weight, reference, strict=True)):
        if cells.shape != x.shape[:2]:
            raise TrainingError(
                f"The reward map of image {index} of the batch has the shape {tuple(cells.shape)}, its latent grid "
                f"is {tuple(x.shape[:2])}: a reward map must return one weight per cell of the grid it is called with."
            )
        if pull is not None and pull.shape != x.shape:
            raise TrainingError(
                f"The reference of image {index} of the batch has a latent of {tuple(pull.shape)}, the image "
                f"itself one of {tuple(x.shape)}: give a reference image of the candidate's size, or none."
            )
