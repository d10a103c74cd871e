"""A denoiser against a pipeline of its author's: what fits passes, and the usual mistakes are named."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from broken_adapters import plain, with_denoiser
from rows import each_row
from torch import Tensor
from toy import CHANNELS, GRID, ToyModel

from srum_core.testing import check_generates_like

TIMES = (1.0, 0.7, 0.3, 0.0)
NOISE = torch.randn(GRID, GRID, CHANNELS, generator=torch.Generator().manual_seed(3))
PROMPT = "a red cup"


def pipeline(guidance: float) -> Tensor:
    """What the author's own code makes of the noise."""
    model, x = ToyModel(), NOISE
    for now, then in pairwise(TIMES):
        with torch.no_grad():
            said, without = model.denoiser([x, x], torch.full((2,), now), model.condition([PROMPT, None]))
        x = x + (then - now) * (without + guidance * (said - without))
    return x


def swapped(model: ToyModel) -> None:
    """Positions take width for height."""
    model.denoiser.place.data = model.denoiser.place.data.transpose(0, 1).clone()


def kind(change: Callable[[Tensor], Tensor], clock: Callable[[Tensor], Tensor]) -> type[ToyModel]:
    return with_denoiser(lambda d, noisy, time, words: [change(v) for v in plain(d, noisy, clock(time), words)])


MISTAKES = {
    "sign": (kind(lambda v: -v, lambda t: t), "noise - clean"),
    "time": (kind(lambda v: v, lambda t: 1 - t), "1 - time"),
    "thousandths": (kind(lambda v: v, lambda t: t / 1000), r"time \* 1000"),
    "scale": (kind(lambda v: 2 * v, lambda t: t), "No usual mistake"),
}


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_denoiser_that_generates_what_the_pipeline_generates_passes(guidance: float) -> None:
    check_generates_like(ToyModel(), PROMPT, NOISE, pipeline(guidance), TIMES, guidance)


@each_row("name", MISTAKES)
def test_a_mistake_is_named(name: str) -> None:
    model, words = MISTAKES[name]
    with pytest.raises(AssertionError, match=f"end elsewhere than the pipeline.*{words}"):
        check_generates_like(model(), PROMPT, NOISE, pipeline(1.0), TIMES)


def test_swapped_positions_are_named() -> None:
    model = ToyModel()
    swapped(model)
    with pytest.raises(AssertionError, match="With rows and columns swapped it fits"):
        check_generates_like(model, PROMPT, NOISE, pipeline(1.0), TIMES)


def test_another_grid_is_no_match() -> None:
    with pytest.raises(AssertionError, match="differ by inf"):
        check_generates_like(ToyModel(), PROMPT, NOISE[:2], pipeline(1.0), TIMES)
