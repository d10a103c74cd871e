"""Compare a denoiser with the author's own pipeline, both with the same weights, which may be random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from srum_core.protocols import UnifiedModel
from srum_core.testing.fixtures import called

Velocity = Callable[[Tensor, float], Tensor]
"""From a noisy latent (rows, columns, channels) and its time to the velocity."""

_NO_HINT = (
    "No usual mistake of sign, time or order of cells explains it: compare text embeddings, positions, guidance and "
    "the scale of latents, at the first step first."
)


def check_generates_like(
    adapter: UnifiedModel,
    prompt: str,
    noise: Tensor,
    expected: Tensor,
    times: Sequence[float],
    guidance: float = 1.0,
    tolerance: float = 1e-3,
) -> None:
    """Assert that Euler steps with `adapter.denoiser` lead from `noise` to `expected`, the pipeline's last latent.

    noise, expected   (rows, columns, channels), arranged as `encode` does
    times             the pipeline's, from 1 to 0, one more than steps (diffusers: `scheduler.sigmas`)
    guidance          1 = without; else v = v_without_text + guidance * (v_with_text - v_without_text)
    tolerance         largest difference, as a share of the largest entry of `expected`
    """

    def velocity(noisy: Tensor, time: float) -> Tensor:
        texts = [prompt] if guidance == 1 else [prompt, None]
        clock = torch.full((len(texts),), time, device=noisy.device)
        with torch.no_grad():
            velocity, *without = called(
                f"The denoiser failed at time {time:g}",
                lambda: adapter.denoiser([noisy] * len(texts), clock, adapter.condition(texts)),
            )
        guided: Tensor = without[0] + guidance * (velocity - without[0]) if without else velocity
        return guided

    gap = _gap(_euler(velocity, noise, times), expected)
    if gap <= tolerance:
        return
    fixes = [fix for fix, other in _mistakes(velocity).items() if _ends_at(other, noise, expected, times, tolerance)]
    hint = fixes[0] if fixes else _NO_HINT
    raise AssertionError(
        f"{len(times) - 1} Euler steps with {type(adapter).__name__}.denoiser end elsewhere than the pipeline, which "
        f"began with the same noise (they differ by {gap:.2g} of the largest entry). {hint}"
    )


def _mistakes(velocity: Velocity) -> Mapping[str, Velocity]:
    """Return, by a sentence about a usual mistake, the velocity without it."""
    return {
        "With the other sign it fits: the velocity is noise - clean.": lambda x, t: -velocity(x, t),
        "With 1 - time it fits: time is 0 for clean and 1 for noise.": lambda x, t: velocity(x, 1 - t),
        "With time * 1000 it fits: scale time in the adapter.": lambda x, t: velocity(x, 1000 * t),
        "With time / 1000 it fits: the model takes time in [0, 1].": lambda x, t: velocity(x, t / 1000),
        "With rows and columns swapped it fits: cells or positions take width for height.": lambda x, t: velocity(
            x.transpose(0, 1), t
        ).transpose(0, 1),
    }


def _ends_at(velocity: Velocity, noise: Tensor, expected: Tensor, times: Sequence[float], tolerance: float) -> bool:
    try:
        return _gap(_euler(velocity, noise, times), expected) <= tolerance
    except AssertionError:  # a denoiser may refuse such times or grids
        return False


def _euler(velocity: Velocity, noise: Tensor, times: Sequence[float]) -> Tensor:
    x = noise
    for time, next_time in pairwise(float(each) for each in times):
        x = x + (next_time - time) * velocity(x, time)
    return x


def _gap(actual: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest entry; infinite for another shape or a value that is not finite."""
    if actual.shape != expected.shape or not actual.isfinite().all():
        return float("inf")
    return float((actual - expected.to(actual)).abs().max() / expected.abs().max().clamp_min(1e-12))
