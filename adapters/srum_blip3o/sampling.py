"""Features out of noise: guided Euler steps of the head, both branches in one forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from srum_blip3o.denoiser import Denoiser
from srum_blip3o.options import Drawing

Watch = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Called at each step with the state, the timestep that the head gets, and its two velocities: unconditional first."""


@torch.no_grad()
def sample(
    denoiser: Denoiser, condition: Tensor, noise: Tensor, drawing: Drawing, watch: Watch | None = None
) -> Tensor:
    """Conditions (n, queries, hidden) and noise (n, c, h, w) -> features (n, c, h, w), float32."""
    scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=drawing.shift)
    steps = drawing.steps
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist(), device=condition.device)
    both = torch.cat([torch.zeros_like(condition), condition])
    x = noise.to(condition.device, torch.float32)
    for time in scheduler.timesteps:
        timestep = time.long().float() if drawing.whole_timesteps else time.float()
        velocities = denoiser.velocity(x.repeat(2, 1, 1, 1), timestep.expand(len(both)), both).float()
        without, told = velocities.chunk(2)
        if watch is not None:
            watch(x, timestep, without, told)
        guided = without + drawing.guidance * (told - without)
        x = scheduler.step(guided, time, x, return_dict=False)[0]
    return x
