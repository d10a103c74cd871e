"""The sampler's steps, for scores along the way (paper, Figure 4): times, and the clean image seen from each."""

from __future__ import annotations

from typing import Any


def times(timesteps: int, shift: float) -> list[float]:
    """Times of BAGEL's sampler from 1 to 0, `timesteps` of them: one more than the steps between them."""
    even = [1 - step / (timesteps - 1) for step in range(timesteps)]
    return [shift * each / (1 + (shift - 1) * each) for each in even]


def guided(timesteps: int, shift: float, interval: tuple[float, float]) -> int:
    """How many steps use guidance: those that start after the interval's low end, up to its high end."""
    low, high = interval
    return sum(low < time <= high for time in times(timesteps, shift)[:-1])


def clean(noisy: Any, velocity: Any, time: float) -> Any:
    """Where a step's velocity (noise - clean) leads: the estimate of the clean latent at that step."""
    return noisy - time * velocity
