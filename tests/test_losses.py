"""Losses on a `FlowStep`."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve
from torch import Tensor

from srum_core.flow import FlowStep
from srum_losses import SrumOptions
from srum_losses.objectives import SftLoss, SrumLoss

GRIDS = [(2, 3, 4), (4, 1, 4)]


def make(dtype: torch.dtype = torch.float32, paired: bool = False) -> FlowStep:
    generator = torch.Generator().manual_seed(0)

    def draw(shapes: list[tuple[int, ...]]) -> list[Tensor]:
        return [torch.randn(shape, generator=generator) for shape in shapes]

    target = draw(list(GRIDS))
    return FlowStep(
        velocity=[x.to(dtype).requires_grad_() for x in draw(list(GRIDS))],
        target=target,
        reference=draw(list(GRIDS)) if paired else target,
        weight=[x.tanh() for x in draw([grid[:2] for grid in GRIDS])],
        time=torch.tensor([0.2, 0.8]),
    )


@pytest.mark.parametrize("paired", [False, True])
def test_equations_one_to_three(paired: bool) -> None:
    step = make(paired=paired)
    count = sum(h * w * c for h, w, c in GRIDS)
    reward = reference = 0.0
    for v, target, ref, weight in zip(step.velocity, step.target, step.reference, step.weight, strict=True):
        v = v.detach()
        for i in range(v.shape[0]):
            for j in range(v.shape[1]):
                for k in range(v.shape[2]):
                    reward += float(weight[i, j] * (v[i, j, k] - target[i, j, k]) ** 2) / count
                    reference += float((v[i, j, k] - ref[i, j, k]) ** 2) / count
    total, parts = SrumLoss(SrumOptions(constraint=0.3))(step)
    assert total.item() == pytest.approx(reward + 0.3 * reference, rel=1e-5)
    assert parts["reward"].item() == pytest.approx(reward, rel=1e-5)
    assert parts["reference"].item() == pytest.approx(reference, rel=1e-5)
    assert not any(part.requires_grad for part in parts.values())


def test_gradient_of_a_cell_is_its_net_coefficient_times_its_error() -> None:
    step = make()
    loss = SrumLoss()
    assert loss.constraint == 0.5
    total, _ = loss(step)
    total.backward()
    count = sum(h * w * c for h, w, c in GRIDS)
    for v, target, weight in zip(step.velocity, step.target, step.weight, strict=True):
        expected = 2 * (weight[..., None] + loss.constraint) * (v - target) / count
        torch.testing.assert_close(v.grad, expected.detach())


def test_sft_ignores_weights_and_never_pushes_away() -> None:
    step = make(paired=True)
    loss, parts = SftLoss()(step)
    everything = torch.cat([(v - t).square().flatten() for v, t in zip(step.velocity, step.target, strict=True)])
    assert loss.item() == pytest.approx(everything.mean().item(), rel=1e-5)
    assert parts["error"] == loss
    again, _ = SftLoss()(evolve(step, weight=[-w for w in step.weight]))
    assert again == loss
    assert SftLoss.constraint - 1.0 >= 0  # weight >= -1: never net-negative


def test_no_constraint_and_unit_weights_give_sft() -> None:
    step = evolve(make(paired=True), weight=[torch.ones(grid[:2]) for grid in GRIDS])
    assert SrumLoss(SrumOptions(constraint=0.0))(step)[0].item() == pytest.approx(SftLoss()(step)[0].item())


def test_low_precision_is_summed_in_float32() -> None:
    step = make(torch.bfloat16)
    upcast = evolve(step, velocity=[v.float() for v in step.velocity])
    for loss in (SrumLoss(), SftLoss()):
        with torch.autocast("cpu", torch.bfloat16):
            total, _ = loss(step)
        assert total.dtype == torch.float32
        assert total.item() == loss(upcast)[0].item()
