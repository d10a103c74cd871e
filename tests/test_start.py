"""What the model said before training, for losses that compare with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from accelerate.state import AcceleratorState
from near import off
from torch import Tensor, nn
from training import clean, interrupt, make, metrics, weights  # noqa: F401  (clean is used by being here)

from srum_core.config import Lora
from srum_core.flow import FlowStep
from srum_core.training import lora
from srum_core.training.trainer import train
from srum_losses.objectives import SftLoss

BOUNDED = "srum_losses.objectives:BoundedLoss"


class Witness(SftLoss):
    """Keeps what it is shown."""

    needs_start = True
    seen: list[FlowStep] = []  # noqa: RUF012 - the tests look here

    def __call__(self, step: FlowStep) -> tuple[Tensor, Mapping[str, Tensor]]:
        Witness.seen.append(step)
        return super().__call__(step)


class Careless(Witness):
    needs_start = False


def witnessed(folder: Path, loss: str = "test_start:Witness", **settings: Any) -> list[FlowStep]:
    Witness.seen = []
    train(make(folder, loss=loss, **settings), 1)
    AcceleratorState._reset_state(reset_partial_state=True)
    return Witness.seen


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_says_what_a_separately_loaded_model_says(method: str) -> None:
    torch.manual_seed(0)
    tuned = lora.tune(toy.ToyModel(), method, Lora(rank=2, dropout=0.5), checkpointing=True)
    start = lora.Start.of(tuned)
    with torch.no_grad():
        for parameter in tuned.parameters.values():
            parameter += 0.1
    moved = {name: parameter.detach().clone() for name, parameter in tuned.parameters.items()}
    fresh = toy.ToyModel()
    given = ([torch.randn(4, 3, 3), torch.randn(2, 4, 3)], torch.tensor([0.2, 0.9]), fresh.condition(["a", None]))
    found, expected = start(*given), fresh.denoiser(*given)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert not any(velocity.requires_grad for velocity in found)
    assert off(tuned.module(*given)[0], expected[0]) > 1e-5
    assert all(torch.equal(tuned.parameters[name], before) for name, before in moved.items())
    assert all(parameter.requires_grad for parameter in tuned.parameters.values())
    assert all(module.training for module in tuned.module.modules())


def test_a_denoisers_own_dropout_has_no_part_in_it() -> None:
    module = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5))
    start = lora.Start.of(lora.Tuned(module, dict(module.named_parameters()), "full"))
    x = torch.randn(2, 3)
    assert torch.equal(start(x), module[0](x))
    assert not torch.equal(module(x), module[0](x))


def test_one_autocast_may_hold_both_the_weights_before_training_and_todays() -> None:
    module, x = nn.Linear(3, 4), torch.randn(2, 3)
    start = lora.Start.of(lora.Tuned(module, dict(module.named_parameters()), "full"))
    with torch.no_grad():
        module.weight += 1.0
    with torch.autocast("cpu", torch.bfloat16):
        today, before, again = module(x), start(x), module(x)
    with torch.autocast("cpu", torch.bfloat16):
        apart = module(x)
    assert torch.equal(today, apart)
    assert torch.equal(again, apart)
    assert off(before, apart) > 0.1
    again.sum().backward()
    assert module.weight.grad is not None


@pytest.mark.parametrize(("method", "precision"), [("lora", "no"), ("full", "no"), ("full", "bf16")])
def test_a_step_holds_what_weights_that_never_moved_say(tmp_path: Path, method: str, precision: str) -> None:
    settings = {"method": method, "mixed_precision": precision, "steps": 3}
    still = witnessed(tmp_path / "still", lr=1e-30, **settings)
    trained = witnessed(tmp_path / "trained", lr=0.1, warmup=0, **settings)
    assert len(still) == len(trained) > 3
    for one, other in zip(still, trained, strict=True):
        for velocity, begun, same in zip(one.velocity, other.start or [], one.start or [], strict=True):
            assert torch.equal(velocity.detach(), begun)
            assert torch.equal(begun, same)
    assert off(trained[-1].velocity[0], trained[-1].start[0]) > 1e-5  # type: ignore[index]


def test_only_losses_that_need_it_pay_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(toy, "called", calls.append)
    without = witnessed(tmp_path / "without", "test_start:Careless", steps=2)
    assert all(step.start is None for step in without)
    assert calls.count("step") == 0
    assert calls.count("train") == len(without)
    assert len(witnessed(tmp_path / "with", steps=2)) == calls.count("step") == len(without)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_resumed_run_compares_with_the_same_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    whole, run = (make(tmp_path / name, loss=BOUNDED, method=method) for name in ("whole", "run"))
    train(whole, 1)
    interrupt(monkeypatch, run, after=6)
    train(run, 1)
    log = "metrics.jsonl"
    assert (run.round_folder(1) / log).read_bytes() == (whole.round_folder(1) / log).read_bytes()
    assert all(torch.equal(weights(run)[name], tensor) for name, tensor in weights(whole).items())


@pytest.mark.parametrize(
    ("loss", "stopped"), [("srum_losses.objectives:SrumLoss", True), (BOUNDED, False), ("negative", False)]
)
def test_where_srum_runs_away_the_remedies_do_not(tmp_path: Path, loss: str, stopped: bool) -> None:
    loss = "srum_losses.objectives:NegativeAwareLoss" if loss == "negative" else loss
    run = make(tmp_path / "run", "training:Hostile", loss=loss, lr=0.05, steps=100, save_every=1000)
    if stopped:
        with pytest.raises(lora.TrainingError, match="run away"):
            train(run, 1)
        return
    train(run, 1)
    errors = [row["negative_error"] for row in metrics(run)]
    assert max(errors) < 10 * errors[0]
