"""Requirements of every loss."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from srum_core.flow import FlowStep
from srum_core.plugins.registry import require_protocol
from srum_core.protocols import Loss
from srum_core.testing.checks import called

SHAPES = ((4, 6, 3), (2, 3, 3))
"""Two images of different sizes."""


class LossConformance:
    """Subclass it as `Test…` with a fixture `loss`."""

    ignores_weights: bool = False
    """True: a loss that pays no heed to the reward map, such as plain fine-tuning; then it must not matter at all."""

    def test_it_is_a_loss(self, loss: Loss) -> None:
        require_protocol(loss, Loss, type(loss).__name__)

    def test_it_is_a_finite_scalar(self, loss: Loss) -> None:
        for weights in (1.0, 0.0, -1.0):
            value, _ = called(f"{type(loss).__name__} failed", lambda w=weights: loss(step(loss, w)))  # type: ignore[misc]
            assert value.shape == (), f"{type(loss).__name__} gave the shape {tuple(value.shape)}; a scalar is needed."
            assert value.is_floating_point() and value.isfinite(), (  # noqa: PT018
                f"{type(loss).__name__} gave {value} where every weight is {weights}."
            )

    def test_parts_are_scalars_without_gradient(self, loss: Loss) -> None:
        _, parts = loss(step(loss))
        for name, part in parts.items():
            assert isinstance(part, Tensor) and part.shape == () and part.isfinite(), (  # noqa: PT018
                f'{type(loss).__name__}: the part "{name}" is {part!r}; parts to log are finite scalar tensors.'
            )
            assert not part.requires_grad, (
                f'{type(loss).__name__}: the part "{name}" still carries its graph, which keeps all activations in '
                "memory for as long as it is kept: give `part.detach()`."
            )

    def test_the_gradient_reaches_every_image(self, loss: Loss) -> None:
        for index, gradient in enumerate(gradients(loss, step(loss))):
            assert float(gradient.abs().max()) > 0, (
                f"{type(loss).__name__}: no gradient reaches the velocity of image {index}. Look for a detach(), a "
                "no_grad() or an item() on the way."
            )
            assert gradient.isfinite().all(), f"{type(loss).__name__}: the gradient of image {index} is not finite."

    def test_weights_matter(self, loss: Loss) -> None:
        plain, raised = step(loss), step(loss)
        raised.weight[0][1, 4] += 0.5
        moved = [one - other for one, other in zip(gradients(loss, raised), gradients(loss, plain), strict=True)]
        change = moved[0].abs().sum(-1)
        if self.ignores_weights:
            assert float(change.max()) == 0, (
                f"{type(loss).__name__} has `ignores_weights = True`, but its gradient changes with them."
            )
            return
        assert float(change.max()) > 0, (
            f"{type(loss).__name__} ignores the weights: the gradient stays the same when a cell's weight is raised. "
            "Use `step.weight`, or set `ignores_weights = True` if that is meant."
        )
        assert divmod(int(change.argmax()), change.shape[1]) == (1, 4), (
            f"{type(loss).__name__}: raising the weight of the cell in row 1, column 4 acts most on another cell. "
            "Weights are (rows, columns), velocities (rows, columns, channels): check for a transposed grid."
        )

    def test_larger_images_weigh_more(self, loss: Loss) -> None:
        whole = step(loss)
        cells = [rows * columns for rows, columns, _ in SHAPES]
        alone = [float(loss(part(whole, index))[0].detach()) for index in range(len(SHAPES))]
        expected = sum(n * value for n, value in zip(cells, alone, strict=True)) / sum(cells)
        found = float(loss(whole)[0].detach())
        assert abs(found - expected) <= 1e-5 * max(1.0, abs(expected)), (
            f"{type(loss).__name__} gives {found:.6g} for two images of {cells} cells that give {alone} alone; the "
            f"mean over all cells is {expected:.6g}. Take the mean over cells, not over images, or the result "
            "depends on how images are batched."
        )

    def test_a_perfect_velocity_costs_no_more(self, loss: Loss) -> None:
        given = step(loss, 1.0)
        perfect = attrs.evolve(given, velocity=[goal.clone().requires_grad_() for goal in given.target])
        right, wrong = (float(loss(each)[0].detach()) for each in (perfect, given))
        assert right <= wrong, (
            f"{type(loss).__name__} is larger where the velocity is the target ({right:.6g}) than elsewhere "
            f"({wrong:.6g}), though every weight is 1: check its sign."
        )

    def test_the_step_is_left_as_it_is(self, loss: Loss) -> None:
        given, before = step(loss), step(loss)
        loss(given)
        for name in ("velocity", "target", "weight", "start"):
            one, other = (getattr(each, name) or () for each in (given, before))
            pairs: Sequence[tuple[Tensor, Tensor]] = list(zip(one, other, strict=True))
            assert all(torch.equal(one, other) for one, other in pairs), (
                f"{type(loss).__name__} changed `step.{name}` in place."
            )


def step(loss: Loss, weights: float | None = None) -> FlowStep:
    """Two images, always the same numbers; weights in [0.1, 1] unless one value is given for all. The prediction
    before training is there only for a loss with `needs_start`."""
    rng = torch.Generator().manual_seed(0)
    target = [torch.randn(shape, generator=rng) for shape in SHAPES]
    velocity = [goal + torch.randn(goal.shape, generator=rng) for goal in target]
    random = [0.1 + 0.9 * torch.rand(shape[:2], generator=rng) for shape in SHAPES]
    weight = random if weights is None else [torch.full(shape[:2], weights) for shape in SHAPES]
    start = [goal + torch.randn(goal.shape, generator=rng) for goal in target]
    return FlowStep(
        [v.requires_grad_() for v in velocity],
        target,
        target,
        weight,
        torch.tensor([0.3, 0.7]),
        start if getattr(loss, "needs_start", False) else None,
    )


def part(whole: FlowStep, index: int) -> FlowStep:
    """One image of a step by itself."""
    some = slice(index, index + 1)
    target = whole.target[some]
    start = None if whole.start is None else whole.start[some]
    return FlowStep(whole.velocity[some], target, target, whole.weight[some], whole.time[some], start)


def gradients(loss: Loss, given: FlowStep) -> list[Tensor]:
    """Of the loss with respect to every velocity; zeros where none arrives."""
    value, _ = loss(given)
    assert value.requires_grad, (
        f"{type(loss).__name__} gave a value without gradient: nothing could be trained with it. Look for a detach(), "
        "a no_grad() or an item()."
    )
    found = torch.autograd.grad(value, given.velocity, allow_unused=True)
    return [torch.zeros_like(v) if g is None else g for v, g in zip(given.velocity, found, strict=True)]
