"""What is trained, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from near import off
from peft import PeftModel
from rows import each_row
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from srum_core.errors import CheckpointError, TrainingError
from srum_core.flow import Recipe
from srum_core.models import trained
from srum_core.training import lora

LORA: Any = SimpleNamespace(rank=2, alpha=4.0, dropout=0.0)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.other = nn.Linear(6, 6), nn.Linear(6, 6)
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return x + torch.tanh(self.other(torch.tanh(self.inner(x))))


class Model:
    """As much of a `UnifiedModel` as tuning touches."""

    def __init__(self, dtype: torch.dtype = torch.float32, **recipe: Any) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.denoiser: Any = nn.Sequential(nn.Linear(3, 6), Block(), Block(), nn.Linear(6, 3))
        self.denoiser.to(dtype).requires_grad_(False).eval()
        patterns: dict[str, Any] = {"blocks": ("Block",), "full": (r"[12]\.inner\..*",), "lora": r"\d\.(inner|other)"}
        self.recipe = Recipe(**{**patterns, **recipe})

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        save_file({name: tensor.clone() for name, tensor in weights.items()}, directory / "upstream.safetensors")


def tune(model: Any, method: str, checkpointing: bool = False) -> lora.Tuned:
    torch.manual_seed(1)
    return lora.tune(model, method, LORA, checkpointing)


def fit(tuned: lora.Tuned, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(tuned.parameters.values(), 0.3)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    for _ in range(steps):
        optimizer.zero_grad()
        (tuned.module(x) - x).square().mean().backward()
        optimizer.step()


def test_full_trains_what_the_recipe_names_in_float32_and_leaves_the_rest() -> None:
    model = Model(torch.bfloat16)
    tuned = tune(model, "full")
    assert set(tuned.parameters) == {f"{i}.inner.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    for name, parameter in model.denoiser.named_parameters():
        assert parameter.requires_grad is (name in tuned.parameters)
        assert parameter.dtype is (torch.float32 if name in tuned.parameters else torch.bfloat16)


def test_full_training_of_mixed_types_needs_autocast() -> None:
    tuned = tune(Model(torch.bfloat16), "full")
    with pytest.raises(TrainingError, match=r"loaded the rest as torch.bfloat16: use train.mixed_precision=bf16"):
        lora.check_types(tuned, "no")
    lora.check_types(tuned, "bf16")
    lora.check_types(tune(Model(), "full"), "no")
    lora.check_types(tune(Model(torch.bfloat16), "lora"), "no")


def test_lora_adds_to_the_modules_named_and_starts_neutral() -> None:
    model, x = Model(torch.bfloat16), torch.randn(4, 3, dtype=torch.bfloat16)
    before = model.denoiser(x)
    tuned = tune(model, "lora")
    assert len(tuned.parameters) == 2 * 4
    assert all("lora_" in name and p.dtype is torch.float32 for name, p in tuned.parameters.items())
    assert torch.equal(tuned.module(x), before)
    frozen = [p for name, p in tuned.module.named_parameters() if "lora_" not in name]
    assert all(p.dtype is torch.bfloat16 and not p.requires_grad for p in frozen)


@each_row(
    "method, recipe, words",
    [
        ("full", {"full": (r"[12]\.inner\..*", "gone")}, r'recipe.full .*"gone", which matches no parameter'),
        ("full", {"full": ("inner.weight",)}, r"matches no parameter .*0\.weight"),
        ("full", {"full": ()}, "recipe.full is empty"),
        ("lora", {"lora": "inner"}, r'recipe.lora .*"inner", which matches no module'),
        ("lora", {"blocks": ("Layer",)}, r'recipe.blocks .*"Layer", which matches no class .*Block'),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(method: str, recipe: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        tune(Model(**recipe), method, checkpointing=True)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_checkpointing_runs_blocks_twice_and_changes_no_gradient(method: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = Model()
        tuned = tune(model, method, checkpointing)
        tuned.module(torch.ones(4, 3, requires_grad=True)).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in tuned.parameters.items()})
        assert [block.runs for block in model.denoiser if isinstance(block, Block)] == [1 + checkpointing] * 2
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_lora_folder_is_peft_s_and_merges_into_the_next_round(tmp_path: Path) -> None:
    model, x = Model(), torch.randn(4, 3)
    tuned = tune(model, "lora")
    fit(tuned)
    after = tuned.module(x).detach()
    lora.save(model, tuned, tmp_path / "c", {"round": 1})
    there = {path.name for path in (tmp_path / "c").iterdir()}
    assert there == {"adapter_config.json", "adapter_model.safetensors", "srum.json"}
    assert json.loads((tmp_path / "c" / "srum.json").read_text()) == {"kind": "lora", "round": 1}

    fresh = Model()
    assert off(fresh.denoiser(x), after) > 1e-5
    assert off(PeftModel.from_pretrained(Model().denoiser, str(tmp_path / "c"))(x), after) <= 1e-5
    names = [name for name, _ in fresh.denoiser.named_parameters()]
    denoiser = fresh.denoiser
    trained.apply(fresh, tmp_path / "c")
    assert fresh.denoiser is denoiser
    assert [name for name, _ in denoiser.named_parameters()] == names
    assert not denoiser.training
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())
    assert off(denoiser(x), after) <= 1e-5
    tune(fresh, "lora")  # and once more, in the round after


def test_full_folder_is_written_by_the_adapter(tmp_path: Path) -> None:
    model = Model()
    tuned = tune(model, "full")
    fit(tuned)
    lora.save(model, tuned, tmp_path / "c", {})
    stored = load_file(tmp_path / "c" / "upstream.safetensors")
    assert stored.keys() == tuned.parameters.keys()
    assert all(torch.equal(stored[name], parameter) for name, parameter in tuned.parameters.items())
    assert trained.kind(tmp_path / "c") == "full"
    with pytest.raises(CheckpointError, match="full weights"):
        trained.apply(model, tmp_path / "c")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="no result of training"):
        trained.kind(tmp_path)


def test_the_moving_average_follows_and_settles_at_its_decay() -> None:
    weights = {"w": torch.zeros(1)}
    average = lora.Average(weights, 0.9)
    expected = 0.0
    for step in range(200):
        weights["w"].fill_(step)
        average.update(weights, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert average.weights["w"].item() == pytest.approx(expected, rel=1e-5)
    assert not lora.Average(weights, 0.0).weights
