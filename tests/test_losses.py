"""Losses on a `FlowStep`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import exp, log

import pytest
import torch
from attrs import evolve
from near import off
from rows import each_row
from torch import Tensor

from srum_core.errors import TrainingError
from srum_core.flow import FlowStep
from srum_core.testing import LossConformance
from srum_losses import BoundedOptions, NegativeAwareOptions, SrumOptions
from srum_losses.objectives import BoundedLoss, NegativeAwareLoss, SftLoss, SrumLoss

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
        assert off(v.grad, expected.detach()) <= 1e-5


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
    assert SrumLoss(SrumOptions(constraint=0.0))(step)[0].item() == pytest.approx(SftLoss()(step)[0].item(), rel=1e-5)


def test_low_precision_is_summed_in_float32() -> None:
    step = make(torch.bfloat16)
    upcast = evolve(step, velocity=[v.float() for v in step.velocity])
    start = [v.detach().float() + 0.5 for v in step.velocity]
    step, upcast = evolve(step, start=start), evolve(upcast, start=start)
    for loss in (SrumLoss(), SftLoss(), BoundedLoss(), NegativeAwareLoss(NegativeAwareOptions(beta=0.5))):
        with torch.autocast("cpu", torch.bfloat16):
            total, _ = loss(step)
        assert total.dtype == torch.float32
        assert total.item() == loss(upcast)[0].item()


# ---- remedies for net-negative cells --------------------------------------------------------------------------------


def cell(velocity: float, weight: float, start: float, target: float = 0.0, reference: float | None = None) -> FlowStep:
    """One image of one cell and two channels, with the same numbers in both."""
    both = [torch.full((1, 1, 2), value) for value in (velocity, target, target if reference is None else reference)]
    goal = [both[1]]
    pull = goal if reference is None else [both[2]]
    first = [torch.full((1, 1, 2), start)]
    return FlowStep(
        [both[0].requires_grad_()], goal, pull, [torch.full((1, 1), weight)], torch.tensor([0.5]), start=first
    )


def slope(loss: Callable[[FlowStep], tuple[Tensor, object]], step: FlowStep) -> float:
    """Of the loss with respect to the velocity, in both channels together."""
    total, _ = loss(step)
    (gradient,) = torch.autograd.grad(total, step.velocity)
    return float(gradient.sum())


def settled(loss: Callable[[FlowStep], tuple[Tensor, object]], weight: float, steps: int = 400) -> float:
    """Where gradient descent takes the velocity of a cell with the target 0 that starts at 1."""
    velocity = 1.0
    for _ in range(steps):
        velocity -= 0.1 * slope(loss, cell(velocity, weight, start=1.0))
        if abs(velocity) > 1e6:
            break
    return velocity


def test_bounded_is_srum_up_to_the_error_before_training_and_saturates_beyond() -> None:
    """Weight -0.9, constraint 0.3, margin 0.5, an error of 4 before training."""
    bounded, srum = BoundedLoss(BoundedOptions(0.3, 0.5)), SrumLoss(SrumOptions(0.3))
    for velocity in (0.5, 1.0, 2.0):
        assert bounded(cell(velocity, -0.9, 2.0))[0].item() == pytest.approx(-0.6 * velocity**2, rel=1e-5)
        step = cell(velocity, -0.9, 2.0)
        assert slope(bounded, step) == pytest.approx(slope(srum, step), rel=1e-5)
        assert slope(bounded, step) == pytest.approx(2 * -0.6 * velocity, rel=1e-5)
    total, parts = bounded(cell(3.0, -0.9, 2.0))  # an error of 9, which is 5 too many; room = 0.5 * 4
    assert parts["reward"].item() == pytest.approx(-0.9 * (4 + 2 * (1 - exp(-5 / 2))), rel=1e-5)
    assert total.item() == pytest.approx(parts["reward"].item() + 0.3 * 9, rel=1e-5)
    assert slope(bounded, cell(3.0, -0.9, 2.0)) == pytest.approx(2 * 3 * (0.3 - 0.9 * exp(-5 / 2)), rel=1e-5)
    assert not any(part.requires_grad for part in parts.values())


def test_bounded_is_srum_where_no_cell_is_net_negative() -> None:
    for paired in (False, True):
        step = make(paired=paired)
        step = evolve(
            step, weight=[cells.clamp(min=-0.5) for cells in step.weight], start=[0 * v.detach() for v in step.velocity]
        )
        assert any((cells < 0).any() for cells in step.weight)
        mine, parts = BoundedLoss()(step)
        theirs, their_parts = SrumLoss()(step)
        assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)
        assert parts["reference"] == their_parts["reference"]
        for one, other in zip(
            torch.autograd.grad(mine, step.velocity), torch.autograd.grad(theirs, step.velocity), strict=True
        ):
            assert off(one, other) <= 1e-5


def test_bounded_pulls_towards_a_reference_image_as_srum_does() -> None:
    total, parts = BoundedLoss(BoundedOptions(0.3, 0.5))(cell(3.0, -0.9, 2.0, reference=2.5))
    assert parts["reference"].item() == pytest.approx(0.25, rel=1e-5)
    assert total.item() == pytest.approx(-0.9 * (4 + 2 * (1 - exp(-5 / 2))) + 0.3 * 0.25, rel=1e-5)


@pytest.mark.parametrize("weight", [-0.6, -1.0])
def test_left_to_itself_a_net_negative_cell_runs_away_with_srum_only(weight: float) -> None:
    assert abs(settled(SrumLoss(), weight, 4000)) > 1e6
    assert settled(BoundedLoss(), weight) ** 2 == pytest.approx(1 + 0.5 * log(-weight / 0.5), rel=1e-3)
    assert settled(NegativeAwareLoss(), weight) == pytest.approx(1 - weight, rel=1e-3)
    for loss in (BoundedLoss(BoundedOptions(constraint=0.0)), BoundedLoss(), NegativeAwareLoss()):
        values = [loss(cell(velocity, weight, 1.0))[0].item() for velocity in (0.0, 1.0, 2.0, 10.0, 1e3, 1e6)]
        assert min(values) >= weight * 1.501  # weight * (1 + margin) * the error before training


def test_bounded_knows_no_infinity_where_the_model_made_no_error() -> None:
    for velocity in (0.0, 1e-9, 1.0, 1e8):
        step = cell(velocity, -1.0, start=0.0)
        assert BoundedLoss()(step)[0].isfinite()
        assert torch.tensor(slope(BoundedLoss(), step)).isfinite()


@each_row("beta, constraint", [(1.0, 0.0), (0.5, 0.0), (2.0, 0.3)])
def test_negative_aware_is_the_two_implicit_velocities_against_the_target(beta: float, constraint: float) -> None:
    step = make(paired=True)
    start = [torch.randn(v.shape, generator=torch.Generator().manual_seed(i)) for i, v in enumerate(step.velocity)]
    step = evolve(step, start=start)
    count, positive, negative, reference = sum(h * w * c for h, w, c in GRIDS), 0.0, 0.0, 0.0
    for v, v0, goal, pull, weight in zip(step.velocity, start, step.target, step.reference, step.weight, strict=True):
        v, r = v.detach(), (weight[..., None] + 1) / 2
        positive += float((r * ((1 - beta) * v0 + beta * v - goal) ** 2).sum()) / count
        negative += float(((1 - r) * ((1 + beta) * v0 - beta * v - goal) ** 2).sum()) / count
        reference += float(((v - pull) ** 2).sum()) / count
    total, parts = NegativeAwareLoss(NegativeAwareOptions(beta, constraint))(step)
    assert total.item() == pytest.approx(positive + negative + constraint * reference, rel=1e-5)
    expected = {"positive": positive, "negative": negative, **({"reference": reference} if constraint else {})}
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-5)
    assert not any(part.requires_grad for part in parts.values())


@each_row("weight, settings", product([1.0, 0.3, 0.0, -0.2, -0.3, -1.0], [(1.0, 0.0), (0.5, 0.0), (2.0, 0.4)]))
def test_negative_aware_has_its_minimum_where_it_says(weight: float, settings: tuple[float, float]) -> None:
    """Target 0, 1 before training: the minimum is at 1 - (b * weight + lambda) / (b^2 + lambda)."""
    beta, constraint = settings
    loss = NegativeAwareLoss(NegativeAwareOptions(beta, constraint))
    lowest = 1 - (beta * weight + constraint) / (beta**2 + constraint)
    assert slope(loss, cell(lowest, weight, 1.0)) == pytest.approx(0.0, abs=1e-5)
    assert slope(loss, cell(lowest + 1, weight, 1.0)) > 0 > slope(loss, cell(lowest - 1, weight, 1.0))
    if abs(weight + loss.constraint) > 1e-6:
        assert (lowest > 1) == (weight + loss.constraint < 0)  # away from the target


def test_negative_aware_begins_as_srum_without_a_constraint_does() -> None:
    step = make()
    step = evolve(step, start=[v.detach().clone() for v in step.velocity])
    ours, theirs = (
        torch.autograd.grad(loss(step)[0], step.velocity)
        for loss in (NegativeAwareLoss(), SrumLoss(SrumOptions(constraint=0.0)))
    )
    for one, other in zip(ours, theirs, strict=True):
        assert off(one, other) <= 1e-5


class Undeclared(BoundedLoss):
    needs_start = False


def test_a_loss_that_needs_the_start_says_so_or_is_told() -> None:
    for loss in (BoundedLoss(), NegativeAwareLoss()):
        with pytest.raises(TrainingError, match=r"the prediction before training \(FlowStep.start\)"):
            loss(make())
    with pytest.raises(AssertionError, match=r"Undeclared failed: it raised TrainingError: .*FlowStep.start"):
        LossConformance().test_it_is_a_finite_scalar(Undeclared())
