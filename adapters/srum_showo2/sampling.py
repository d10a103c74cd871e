"""Generate latents: Euler steps from noise to clean with guidance, both branches of all images in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from srum_core.flow import Schedule
from srum_showo2.denoiser import ShowO2Denoiser
from srum_showo2.options import Sampling

Watch = Callable[[float, Tensor, Tensor, Sequence[Tensor]], None]
"""Called at each step with the time, the state (n, h, w, c), its velocity, and those of the branches: with the caption,
and without it where there is guidance."""


def time_grid(sampling: Sampling) -> Tensor:
    """Return the times, float32 (steps,), from 1 (noise) to 0 (clean)."""
    return Schedule(shift=sampling.shift).warp(torch.linspace(1, 0, sampling.steps))


@torch.no_grad()
def sample(
    denoiser: ShowO2Denoiser,
    captions: Sequence[Tensor],
    noise: Sequence[Tensor],
    sampling: Sampling,
    watch: Watch | None = None,
) -> list[Tensor]:
    """Caption ids and noise grids (h, w, c), all of one size, -> clean latent grids, float32."""
    branches = 2 if sampling.guidance else 1
    dropped = [captions[0][:0]] * len(captions)
    x = torch.stack([grid.to(denoiser.device, torch.float32) for grid in noise])
    size = (x.shape[1], x.shape[2])
    prefix = denoiser.prefix([*captions, *dropped][: branches * len(captions)], size)
    times = time_grid(sampling)
    for time, following in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        block, waves = denoiser.embed_images(list(x), x.new_full((len(x),), time))  # the same for both branches
        both = denoiser.step(prefix, block.repeat(branches, 1, 1), waves.repeat(branches, 1), size)
        velocities = both.float().chunk(branches)
        velocity = velocities[0]
        if branches == 2:
            velocity = velocities[1] + sampling.guidance * (velocities[0] - velocities[1])
        if watch is not None:
            watch(time, x, velocity, velocities)
        x = x - velocity * (time - following)
    return list(x)
