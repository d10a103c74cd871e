"""The loop of pretraining: one that was interrupted ends where an uninterrupted one does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from pretraining.fit import Phase, fit, named_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.out = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.out(x)


def train(out: Path, stop: int = 6, ema: float = 0.9) -> list[Tensor]:
    """The result, or what there is when the batches end before step `stop`."""
    torch.manual_seed(0)
    net = Net()

    def batches(done: int) -> Iterator[Tensor]:
        for step in range(done, stop):
            yield torch.randn(8, 6, generator=torch.Generator().manual_seed(step))

    def loss_of(_: int, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        noisy = batch + 0.1 * torch.randn_like(batch)
        return (net(noisy) - batch.sum(1, keepdim=True)).square().mean(), {}

    out.mkdir(exist_ok=True)
    phase = Phase("net", 6, 1e-2, 1e-2, warm_up=2, ema=ema, every=2)
    fit(phase, out, named_of(net=net), batches, loss_of)
    assert not any(parameter.requires_grad for parameter in net.parameters())
    return [parameter.detach().clone() for parameter in net.parameters()]


def test_an_interrupted_phase_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", stop=3)  # the last saved state has two steps
    resumed = train(tmp_path / "parts")
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "net.jsonl").read_text().splitlines()]
    assert steps == [6]


def test_the_result_is_the_averaged_weights_and_a_finished_phase_is_not_made_again(tmp_path: Path) -> None:
    averaged, last = train(tmp_path / "averaged"), train(tmp_path / "last", ema=0.0)
    assert not any(torch.equal(one, other) for one, other in zip(averaged, last, strict=True))
    state = (tmp_path / "averaged" / "net.pt").read_bytes()
    assert all(torch.equal(one, other) for one, other in zip(averaged, train(tmp_path / "averaged"), strict=True))
    assert (tmp_path / "averaged" / "net.pt").read_bytes() == state
