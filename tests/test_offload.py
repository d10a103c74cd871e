"""Weights in host memory: where they are in each stage, that nothing else changes, and what is planned for it."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from near import off
from torch import Tensor, nn

from srum_bagel.memory_outline import outline
from srum_bagel.model import Bagel, unquantised
from srum_bagel.options import Options
from srum_core.config.settings import Lora
from srum_core.doctor.memory_meter import metered
from srum_core.models import small_memory, trained
from srum_core.models.offload import Fetch, Offload
from srum_core.records import Question
from srum_core.testing.fixtures import sample_image
from srum_core.training import lora

BAGEL = Path(__file__).parent / "golden" / "bagel" / "checkpoint"
HERE, THERE = torch.device("cpu"), torch.device("meta")


def load(**options: Any) -> Bagel:
    return Bagel(Options(checkpoint=str(BAGEL), device="cpu", **options))


def elsewhere(device: torch.device = THERE) -> Bagel:
    """A model in host memory, with torch's meta device for the accelerator."""
    model = load()
    parts = {"eye": model.eye, "autoencoder": model.autoencoder}
    blocks = list(model.denoiser.language_model.model.layers)
    model.offload = Offload(model.denoiser, blocks, unquantised(model.denoiser), parts, device)
    return model


def places(modules: list[nn.Module]) -> set[str]:
    return {parameter.device.type for module in modules for parameter in module.parameters()}


def test_each_stage_has_what_it_needs() -> None:
    """Of each stage a fresh model: nothing comes back from a device without values."""
    model = elsewhere()
    layers = unquantised(model.denoiser)
    inside = {id(parameter) for group in layers.values() for layer in group for parameter in layer.parameters()}
    others = [parameter for parameter in model.denoiser.parameters() if id(parameter) not in inside]
    assert {parameter.device for parameter in others} == {THERE}
    model.before_training([])
    assert places(layers["generation"]) == {"meta"}
    assert places(layers["understanding"]) == places([model.eye]) == places([model.autoencoder]) == {"cpu"}
    for stage, experts, part in (("generate", "generation", "autoencoder"), ("answer", "understanding", "eye")):
        model = elsewhere()
        with suppress(Exception):  # nor is there anything to generate with
            model.generate(["a red cup"], [0]) if stage == "generate" else model.answer([])
        layers = unquantised(model.denoiser)
        assert {name for name, group in layers.items() if places(group) == {"meta"}} == {experts}
        assert places([getattr(model, part)]) == {"meta"}
        assert places([model.eye, model.autoencoder]) == {"meta", "cpu"}


def test_layers_are_there_only_while_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a training step two of them at most, the one that runs and the next; as much less as is planned."""
    model = elsewhere()
    model.before_training([])
    layers, blocks = unquantised(model.denoiser), list(model.denoiser.language_model.model.layers)
    whole = small_memory.size(model.denoiser.parameters())
    held: list[int] = []
    before = Fetch.pre_forward

    def watched(self: Fetch, module: nn.Module, *given: Any, **named: Any) -> Any:
        out = before(self, module, *given, **named)
        there = [each for each in model.denoiser.parameters() if each.is_meta]
        ahead = [each for hook in hooks() for each in hook.ahead or []]
        held.append(small_memory.size(there) + small_memory.size(ahead))
        return out

    def hooks() -> list[Fetch]:
        return [block._hf_hook for block in blocks]

    monkeypatch.setattr(Fetch, "pre_forward", watched)
    grid = (4, 4, model.denoiser.vae2llm.in_features)
    with metered():
        for _ in range(2):  # the first pass finds out what follows what
            model.denoiser([torch.zeros(grid, device=THERE)], torch.zeros(1, device=THERE), model.condition(["a cup"]))
    assert len(held) == 2 * len(blocks)
    assert any(hook.following is not None for hook in hooks())
    assert places(layers["understanding"]) == {"cpu"}
    planned = whole - outline(Options(checkpoint=str(BAGEL), offload="cpu"), "cpu").elsewhere["train"]
    assert max(held) <= planned
    assert max(held) == pytest.approx(planned, rel=0.05)


def test_results_are_the_same(tmp_path: Path) -> None:
    plain, model = load(), load(offload="cpu")
    for _ in range(2):  # with what was learned of the order, and after another stage
        one, other = (each._draw(["a red cup"], [0])[0][0] for each in (plain, model))
        assert torch.equal(one, other)
        image = plain.generate(["a red cup"], [0])[0].image
        assert image is not None
        path = tmp_path / "image.png"
        image.save(path)
        asked = [Question(path, "What is it?", max_new_tokens=4)]
        assert plain.answer(asked) == model.answer(asked)


def test_gradients_are_the_same() -> None:
    """Where blocks are recomputed too: their backward pass then fetches the weights again."""

    def gradients(model: Bagel, checkpointing: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        settings: Any = type("Lora", (), {"rank": 2, "alpha": 4.0, "dropout": 0.0})
        model.before_training([])
        tuned = lora.tune(model, "lora", settings, checkpointing)
        with torch.no_grad():
            for number, parameter in enumerate(tuned.parameters.values()):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 10)
        grid = (4, 4, model.denoiser.vae2llm.in_features)
        noisy = [torch.randn(grid, generator=torch.Generator().manual_seed(7))]
        tuned.module(noisy, torch.tensor([0.5]), model.condition(["a cup"]))[0].square().sum().backward()
        return {name: each.grad for name, each in tuned.parameters.items() if each.grad is not None}

    expected = gradients(load(), checkpointing=False)
    for checkpointing in (False, True):
        found = gradients(load(offload="cpu"), checkpointing)
        assert found.keys() == expected.keys()
        assert max(off(found[name], expected[name]) for name in expected) < 1e-5


# ---- parts that are moved as a whole ---------------------------------------------------------------------------------


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> dict[int, Tensor]:
    """Weights in host memory, which are NaN as long as they wait there; "cpu:0" stands for the accelerator."""
    kept: dict[int, Tensor] = {}

    def move(module: nn.Module, device: torch.device) -> None:
        for name, each in module.named_parameters():
            if name == "latent_queries":
                continue  # a copy of them is read where they are
            if device.index is None and id(each) not in kept:
                kept[id(each)] = each.data
                each.data = torch.full_like(each.data, torch.nan)
            elif device.index is not None and id(each) in kept:
                each.data = kept.pop(id(each))

    monkeypatch.setattr(small_memory, "move", move)
    return kept


def moving(name: str, **options: Any) -> Any:
    model = import_module(f"{name}_layouts").build(offload="cpu", **options)
    mover = model.offload if name == "showo2" else model.parts
    mover.device = torch.device("cpu:0")
    return model


def story(model: Any, folder: Path) -> dict[str, Any]:
    """An image, answers, a latent, and LoRA weights after two steps with an answer between them."""
    sample_image((64, 64)).save(folder / "image.png")
    asked = [Question(folder / "image.png", "What is it?", max_new_tokens=3)]
    pixels = np.asarray(model.generate(["a red cup"], [0])[0].image)
    answers = model.answer(asked)
    (latent,) = model.encode([sample_image((64, 64))])
    model.before_training(["a red cup"])
    torch.manual_seed(0)
    settings: Any = type("Lora", (), {"rank": 2, "alpha": 4.0, "dropout": 0.0})
    tuned = lora.tune(model, "lora", settings, checkpointing=False)
    optimizer = torch.optim.AdamW(tuned.parameters.values(), 1e-2)
    noisy = [torch.randn(latent.shape, generator=torch.Generator().manual_seed(7))]
    for _ in range(2):
        tuned.module(noisy, torch.tensor([0.5]), model.condition(["a red cup"]))[0].square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        answers += model.answer(asked)
    model.before_training([])
    return {"pixels": torch.tensor(pixels), "answers": answers, "latent": latent, **tuned.parameters}


@pytest.mark.parametrize("name", ["blip3o", "omnigen2", "showo2"])
def test_what_waits_is_not_used_and_comes_back_as_it_was(name: str, tmp_path: Path, waiting: dict[int, Tensor]) -> None:
    expected = story(import_module(f"{name}_layouts").build(), tmp_path)
    found = story(moving(name), tmp_path)
    assert found.keys() == expected.keys()
    assert found.pop("answers") == expected.pop("answers")
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    assert any(key.endswith("lora_B.default.weight") and value.any() for key, value in expected.items())


@pytest.mark.parametrize("name", ["blip3o", "omnigen2", "showo2"])
def test_as_much_waits_as_is_planned(name: str, tmp_path: Path, waiting: dict[int, Tensor]) -> None:
    model = moving(name)
    sample_image((64, 64)).save(tmp_path / "image.png")
    plan = model.outline(model.options, "cpu")
    modules = [model.denoiser, model.autoencoder] if name == "showo2" else []

    def there() -> int:
        parts = [] if modules else model.parts.loaded.values()
        inside = modules or [
            each for part in parts for each in ([part] if isinstance(part, nn.Module) else part.modules)
        ]
        own = {id(each): each for module in inside for each in module.parameters()}
        return small_memory.size(each for key, each in own.items() if key not in waiting)

    def planned(stage: str) -> int:
        whole = small_memory.size(plan.denoiser.parameters())
        return whole + plan.parts[stage] - plan.elsewhere.get(stage, 0)

    def queries() -> int:
        return small_memory.size(each for key, each in model.denoiser.named_parameters() if key == "latent_queries")

    model.generate(["a red cup"], [0])
    assert there() - queries() == (plan.phases[-1][0] if plan.phases else planned("generate"))
    model.answer([Question(tmp_path / "image.png", "What?", max_new_tokens=1)])
    assert there() - queries() == planned("judge")
    model.before_training(["a red cup"])
    assert there() == planned("train")
    full = import_module(f"{name}_layouts").build()
    before = full.outline(full.options, "cpu")
    for stage in ("judge", "train") if name == "showo2" else ("judge",):
        assert planned(stage) < small_memory.size(before.denoiser.parameters()) + before.parts[stage]


def test_scales_of_eight_bits_follow_their_weights() -> None:
    """torch moves a parameter by giving it another tensor, and the layer would go on with the first one."""
    quantised_nn: Any = pytest.importorskip("bitsandbytes").nn
    for used in (False, True):
        layer = quantised_nn.Linear8bitLt(8, 8, bias=False, has_fp16_weights=False)
        layer.weight = layer.weight.to("cpu")  # quantises
        around, x = nn.Sequential(layer), torch.ones(2, 8)
        if used:
            assert around(x).any()
        layer.weight.data = torch.zeros_like(layer.weight.data)
        small_memory.move(around, HERE)
        assert not around(x).any()


@pytest.mark.parametrize("name", ["blip3o", pytest.param("omnigen2", marks=pytest.mark.slow)])
def test_eight_bits_with_lora_beside_them_are_moved(name: str, tmp_path: Path) -> None:
    """A trained model of the second round, in which PEFT's layers are around the quantised ones."""
    pytest.importorskip("bitsandbytes", reason="the extra 8bit is not installed")
    model = moving(name, quantize="int8")
    tuned = lora.tune(model, "lora", Lora(rank=2, dropout=0.0), checkpointing=False)
    for weight in tuned.parameters.values():
        nn.init.constant_(weight, 0.02)
    lora.save(model, tuned, tmp_path / "lora", {})
    model = moving(name, quantize="int8")
    trained.apply(model, tmp_path / "lora")
    (sample,) = model.generate(["a cup"], [0])
    assert not sample.failure


def test_training_again_after_answers_has_the_generation_experts() -> None:
    model = elsewhere(HERE)
    model.keep("understanding", "eye")
    model.condition(["a cup"])
    assert model.offload is not None
    assert model.offload.kept == (("generation",), "understanding")
