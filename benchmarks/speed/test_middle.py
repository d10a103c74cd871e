"""A mid-size BAGEL: ours against our implementation of the reference's algorithm (`reference.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import middle
import pytest
import reference
import torch

from srum_bagel.options import Sampling
from srum_bagel.sampling import sample

COUNT, STEPS, GUIDANCE = 4, 13, 4.0


@pytest.fixture(scope="module")
def denoiser() -> Any:
    return middle.build()


def packed(denoiser: Any, batch: Any) -> Callable[[], object]:
    def run() -> None:
        reference.velocities(denoiser, *batch).square().mean().backward()
        denoiser.zero_grad(set_to_none=True)

    return run


def test_both_ways_give_the_same(denoiser: Any) -> None:
    """A ratio between different results would mean nothing."""
    batch = middle.images(2)
    with torch.no_grad():
        ours = torch.stack(denoiser(*batch)).flatten(0, 2)
        assert torch.allclose(ours, reference.velocities(denoiser, *batch), atol=1e-4)
        noise, text = batch[0][0], batch[2][0]
        assert torch.allclose(
            generated(denoiser, [noise], [text], 6)[0], reference.sampled(denoiser, noise, text, 6, GUIDANCE), atol=1e-4
        )


def generated(denoiser: Any, noise: list[torch.Tensor], texts: list[torch.Tensor], steps: int) -> list[torch.Tensor]:
    sampling = Sampling(steps=steps, shift=3.0, guidance=GUIDANCE, interval=(0.0, 1.0), renorm="global", renorm_min=0.0)
    return sample(denoiser, middle.contexts(denoiser, texts), noise, sampling)


def test_training(denoiser: Any, compare: Any, peak: float) -> None:
    batch = middle.images(COUNT)
    denoiser.requires_grad_(True)
    work = middle.products(denoiser, COUNT)
    compare(
        "training step, all weights, 4 images",
        middle.step(denoiser, batch),
        packed(denoiser, batch),
        1.25,
        products=work,
        peak=peak,
    )


def tuned(method: str, compiled: bool) -> Any:
    """A fresh model as training prepares it: "all weights", "generation experts" or "LoRA"."""
    kind: Any = "lora" if method == "LoRA" else "full"
    experts: Any = "all" if method == "all weights" else "generation"
    return middle.prepared(middle.build(), kind, experts, compiled).module


def test_training_compiled(compare: Any, peak: float) -> None:
    """As `train.compile` does it."""
    batch, stock = middle.images(COUNT), middle.build()
    compare(
        "training step, all weights, blocks compiled",
        middle.step(tuned("all weights", True), batch),
        packed(stock, batch),
        1.25,
        products=middle.products(stock, COUNT),
        peak=peak,
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", ["generation experts", "LoRA"])
def test_training_less(compare: Any, method: str, compiled: bool) -> None:
    """Against full training: what is frozen needs no gradient of its weights."""
    batch = middle.images(COUNT)
    compare(
        f"training step, {method}, against all weights{', both compiled' * compiled}",
        middle.step(tuned(method, compiled), batch),
        middle.step(tuned("all weights", compiled), batch),
        1.5,
    )


def test_generating(denoiser: Any, compare: Any, peak: float) -> None:
    denoiser.requires_grad_(False)
    (noise,), _, (text,) = middle.images(1)
    one = middle.products(denoiser, 1, backward=())
    compare(
        f"one image, {STEPS} points, guidance",
        lambda: generated(denoiser, [noise], [text], STEPS),
        lambda: reference.sampled(denoiser, noise, text, STEPS, GUIDANCE),
        1.35,
        products=2 * (STEPS - 1) * one * (middle.SIDE**2 + 2) / (middle.SIDE**2 + 2 + middle.TEXT),
        peak=peak,
    )
