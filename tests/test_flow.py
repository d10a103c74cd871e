"""Noising, targets and times."""

from __future__ import annotations

import pytest
import torch
from near import off
from torch import Tensor, nn

from srum_core.errors import TrainingError
from srum_core.flow import Schedule, flow_step

GRIDS = [(2, 3, 4), (4, 1, 4)]


class Echo(nn.Module):
    """Answers with what it was given."""

    def forward(self, noisy: list[Tensor], time: Tensor, condition: Tensor) -> list[Tensor]:
        self.given = (noisy, time, condition)
        return noisy


def draw(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(grid, generator=generator) for grid in GRIDS]


def test_noise_at_the_ends_and_in_the_middle() -> None:
    clean, noise, denoiser = draw(0), draw(1), Echo()
    weight = [torch.zeros(grid[:2]) for grid in GRIDS]
    for times in ([0.0, 1.0], [0.25, 0.75]):
        step = flow_step(denoiser, clean, "words", torch.tensor(times), weight, noise)
        noisy, time, condition = denoiser.given
        assert condition == "words"
        assert time.tolist() == times
        for t, x0, eps, xt, target in zip(times, clean, noise, noisy, step.target, strict=True):
            assert off(xt, x0 + t * (eps - x0)) <= 1e-5
            assert torch.equal(target, eps - x0)  # from data to noise
        assert step.velocity == noisy
        assert step.weight == weight


def test_without_a_pair_the_reference_is_the_target_itself() -> None:
    clean, noise, other = draw(0), draw(1), draw(2)
    step = flow_step(Echo(), clean, None, torch.tensor([0.5, 0.5]), None, noise, reference=[None, other[1]])
    assert step.reference[0] is step.target[0]
    assert torch.equal(step.reference[1], noise[1] - other[1])
    assert [cells.tolist() for cells in step.weight] == [torch.ones(grid[:2]).tolist() for grid in GRIDS]


def test_noise_from_a_generator_is_generated_image_by_image() -> None:
    clean = draw(0)
    step = flow_step(Echo(), clean, None, torch.ones(2), None, torch.Generator().manual_seed(1))
    for velocity, noise in zip(step.velocity, draw(1), strict=True):
        assert off(velocity, noise) <= 1e-5


def test_what_does_not_fit_the_grid_is_refused() -> None:
    clean, noise = draw(0), draw(1)
    with pytest.raises(TrainingError, match=r"image 1 .* \(1, 4\), its latent grid is \(4, 1\)"):
        flow_step(Echo(), clean, None, torch.ones(2), [torch.ones(2, 3), torch.ones(1, 4)], noise)
    with pytest.raises(TrainingError, match=r"image 0 .*reference image of the candidate's size"):
        flow_step(Echo(), clean, None, torch.ones(2), None, noise, reference=[clean[1], None])


def test_times_follow_the_density_and_the_shift() -> None:
    raw = torch.randn(1000, generator=torch.Generator().manual_seed(3)).sigmoid()
    for shift in (1.0, 4.0):
        time = Schedule("logit-normal", shift).sample(1000, torch.Generator().manual_seed(3))
        assert off(time, shift * raw / (1 + (shift - 1) * raw)) <= 1e-5
        assert time.min() > 0
        assert time.max() < 1
    flat = Schedule("uniform", 1.0).sample(4000, torch.Generator().manual_seed(0))
    assert abs(flat.mean().item() - 0.5) < 0.02
    assert abs(flat.std().item() - 12**-0.5) < 0.02
    assert Schedule(shift=3.0).warp(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0.0, 0.75, 1.0]


@pytest.mark.parametrize("wrong", [{"shift": 0.0}, {"density": "cosine"}])
def test_a_schedule_checks_itself(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Schedule(**wrong)  # type: ignore[arg-type]


def test_levels_are_the_next_of_so_many_times() -> None:
    schedule = Schedule("uniform", levels=4)
    assert schedule.whole(torch.tensor([0.01, 0.25, 0.26, 0.99])).tolist() == [0.25, 0.25, 0.5, 1.0]
    times = schedule.sample(4000, torch.Generator().manual_seed(0))
    shares = [float((times == k / 4).float().mean()) for k in (1, 2, 3, 4)]
    assert sum(shares) == pytest.approx(1, rel=1e-5)
    assert all(abs(share - 0.25) < 0.03 for share in shares)
    shifted = Schedule("uniform", shift=3.0, levels=4)
    generated = shifted.sample(100, torch.Generator().manual_seed(0)).unique()
    assert off(generated, shifted.warp(torch.tensor([0.25, 0.5, 0.75, 1.0]))) <= 1e-5
