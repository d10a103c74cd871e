"""Muon in float32 makes the steps of torch's, which works in bfloat16, and its matrices come out orthogonal."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretraining.fit import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_singular_values_come_near_to_one(shape: tuple[int, int]) -> None:
    stack = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    made = orthogonalised(stack)
    u, _, v = torch.linalg.svd(stack, full_matrices=False)
    assert (torch.linalg.svdvals(made) - 0.9).abs().max() < 0.35
    for mine, exact in zip(made, u @ v, strict=True):
        assert nn.functional.cosine_similarity(mine.flatten(), exact.flatten(), dim=0) > 0.95


def test_it_steps_as_torchs_does_but_for_rounding() -> None:
    rng = torch.Generator().manual_seed(1)
    starts = [torch.randn(shape, generator=rng) for shape in ((16, 48), (48, 16), (16, 48))]
    mine, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    ours, torchs = Muon(mine, lr=0.05), torch.optim.Muon(theirs, lr=0.05, momentum=0.95, weight_decay=0.01)
    for _ in range(4):
        for one, other in zip(mine, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=rng)
            other.grad = one.grad.clone()
        ours.step(), torchs.step()
    for one, other, start in zip(mine, theirs, starts, strict=True):
        assert (one - other).norm() < 0.02 * (one - start).norm()
