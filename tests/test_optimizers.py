"""Optimisers and compiled layers: what they do to the weights, and that a training goes on with either."""

from __future__ import annotations

import io
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from accelerate.state import AcceleratorState
from near import off
from torch import nn
from training import clean, interrupt, make, metrics, weights  # noqa: F401  (clean is used by being here)

from srum_core.config.settings import Lora, Train
from srum_core.errors import TrainingError
from srum_core.options import Use
from srum_core.plugins import discover
from srum_core.training import lora
from srum_core.training.trainer import train

GOLDEN = Path(__file__).parent / "golden" / "bagel" / "checkpoint"
BOTH = ["adamw", pytest.param("adamw8bit", marks=pytest.mark.skipif(sys.platform != "linux", reason="bitsandbytes"))]


@pytest.fixture
def small_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 bits for small weights too: otherwise only those of 4096 numbers and more are kept so."""
    bits = pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(bits.optim, "AdamW8bit", partial(bits.optim.AdamW8bit, min_8bit_size=1))


def fitted(optimizer: str, steps: int, state: bytes | None = None, start: torch.Tensor | None = None) -> Any:
    """(weight, optimiser) after so many steps of fitting random targets, from a saved state if there is one."""
    rng = torch.Generator().manual_seed(0)
    goal, weight = torch.randn(64, 128, generator=rng), nn.Parameter(torch.zeros(64, 128))
    if start is not None:
        weight.data.copy_(start)
    made = lora.make_optimizer([weight], Train(optimizer=optimizer, lr=1e-2))  # type: ignore[arg-type]
    if state is not None:
        made.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
    for _ in range(steps):
        made.zero_grad()
        (weight - goal).square().mean().backward()
        made.step()
    return weight.detach(), made


def saved(optimizer: torch.optim.Optimizer) -> bytes:
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("optimizer", BOTH)
def test_settings_reach_the_optimiser(optimizer: Any) -> None:
    asked = Train(optimizer=optimizer, lr=0.3, beta1=0.8, beta2=0.9, eps=1e-7, weight_decay=0.1)
    (group,) = lora.make_optimizer([nn.Parameter(torch.zeros(4))], asked).param_groups
    assert [group[name] for name in ("lr", "eps", "weight_decay")] == [0.3, 1e-7, 0.1]
    assert tuple(group["betas"]) == (0.8, 0.9)


@pytest.mark.parametrize("optimizer", BOTH)
def test_a_saved_state_goes_on_as_if_it_had_never_stopped(optimizer: str) -> None:
    whole, _ = fitted(optimizer, 8)
    half, made = fitted(optimizer, 4)
    rest, _ = fitted(optimizer, 4, saved(made), half)
    assert torch.equal(rest, whole)
    assert not torch.equal(fitted(optimizer, 4, None, half)[0], whole)  # the state matters


def test_eight_bits_follow_32_in_a_quarter_of_the_memory() -> None:
    """1 byte each for the two means, not 4; and about the same weights."""
    (one, full), (other, small) = fitted("adamw", 30), fitted("adamw8bit", 30)
    assert len(saved(small)) < 0.35 * len(saved(full))
    assert 0 < float((one - other).norm() / one.norm()) < 0.1


def test_eight_bits_take_no_leaps() -> None:
    """Gradients over six decades, and the release's tiny eps: a mean square that is rounded to 0 would divide by it."""
    rng = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-9, -3, 256)[torch.randperm(256, generator=rng)] * torch.randn(64, 256, generator=rng)
    weight = nn.Parameter(torch.zeros(64, 256))
    made = lora.make_optimizer([weight], Train(optimizer="adamw8bit", lr=1e-3, eps=1e-15))
    for _ in range(20):
        before = weight.detach().clone()
        weight.grad = sizes * (1 + 0.3 * torch.randn(64, 256, generator=rng))
        made.step()
        assert float((weight.detach() - before).abs().max()) < 4e-3


@pytest.mark.usefixtures("small_too")
@pytest.mark.parametrize("optimizer", BOTH)
def test_a_run_warms_up_moves_by_its_rate_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """Adam's first update moves what has a gradient by the learning rate; the first of a warm-up of 2 by half of it."""
    first = make(tmp_path / "first", optimizer=optimizer, steps=1, eps=1e-15)
    train(first, 1)
    start = toy.ToyModel().denoiser.state_dict()
    moved = max(float((weights(first)[name] - start[name]).abs().max()) for name in weights(first))
    assert moved == pytest.approx(0.005, rel=1e-3)

    settings: dict[str, Any] = {"optimizer": optimizer, "ema": 0.9, "text_dropout": 0.3}
    whole, run = make(tmp_path / "whole", **settings), make(tmp_path / "run", **settings)
    train(whole, 1)
    interrupt(monkeypatch, run, after=5)  # after a step that is logged and not saved
    train(run, 1)
    assert metrics(run) == metrics(whole)
    assert all(torch.equal(weights(run)[name], tensor) for name, tensor in weights(whole).items())


def test_a_missing_package_and_sharded_weights_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, asked = nn.Parameter(torch.zeros(4)), Train(optimizer="adamw8bit")
    with monkeypatch.context() as patch:
        patch.setattr("srum_core.training.trackers.find_spec", lambda name: None)
        with pytest.raises(TrainingError, match=r'needs the package bitsandbytes.*pip install "srum\[8bit\]"'):
            lora.make_optimizer([weight], asked)
    monkeypatch.setattr(lora, "DTensor", nn.Parameter)  # as if it were sharded
    with pytest.raises(TrainingError, match=r"does not work on sharded weights\. Use train.optimizer=adamw, whose"):
        lora.make_optimizer([weight], asked)


# ---- compiled layers ------------------------------------------------------------------------------------------------


def test_a_run_with_compiled_layers_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced forwards and backwards, but not translated to C++, which takes a minute; saved under the same names."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, compiled = (
        make(tmp_path / str(compile), compile=compile, steps=2, lora_dropout=0.0, max_cells=1000, accumulation=1)
        for compile in (False, True)
    )
    for run in (plain, compiled):
        train(run, 1)
        AcceleratorState._reset_state(reset_partial_state=True)
    for one, other in zip(metrics(plain), metrics(compiled), strict=True):
        assert all(other[name] == pytest.approx(value, rel=1e-4) for name, value in one.items() if value is not None)
    assert weights(plain).keys() == weights(compiled).keys()
    for name, tensor in weights(plain).items():
        assert off(weights(compiled)[name], tensor) <= 1e-3


@pytest.mark.slow
def test_bagel_s_layers_compile_whole_and_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """No graph break, one graph for all layers, the same names and gradients; recomputed and with LoRA inside."""
    torch._dynamo.reset()
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    found = []
    for compile in (False, True):
        model = discover().create("adapter", Use("bagel", {"checkpoint": str(GOLDEN), "dtype": "float32"}))
        layers = model.denoiser.language_model.model.layers
        layers.extend(deepcopy(layers))
        for index, layer in enumerate(layers):
            layer.index = index
        torch.manual_seed(0)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
            tuned = lora.tune(model, "lora", Lora(rank=2), checkpointing=True, compiled=compile)
        noisy = [torch.ones(2, 2, model.denoiser.vae2llm.in_features)] * 2
        said = tuned.module(noisy, torch.tensor([0.3, 0.8]), model.condition(["a red cup", None]))
        sum(each.square().sum() for each in said).backward()
        found.append({name: parameter.grad for name, parameter in tuned.parameters.items()})
    assert len(layers) == 4
    # The first layer, into which no gradient goes back; the last, which drops what is not wanted; and all others.
    assert len(graphs) == 3
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert off(found[1][name], gradient) <= 1e-5
