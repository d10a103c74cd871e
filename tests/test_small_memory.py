"""Weights in 4 and 8 bits: what they compute, what training changes, what is saved, and how many bytes they take."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import EVERY, GOLDENS, LORA, MODELS, options_of
from near import off
from rows import each_row
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from srum_bagel.model import EXPERTS, Bagel
from srum_bagel.options import Options as BagelOptions
from srum_core.config import load_settings
from srum_core.errors import CheckpointError, ConfigError, TrainingError
from srum_core.interchange.trained_model import in_full
from srum_core.models import small_memory, trained
from srum_core.plugins import discover
from srum_core.runs.run import Run
from srum_core.training import lora

bits = pytest.importorskip("bitsandbytes", reason="the extra 8bit is not installed")


def load(name: str, **options: Any) -> Any:
    return MODELS[name][0](options_of(name, device="cpu", **options))


def inner(model: Any) -> list[nn.Module]:
    """The modules that may hold quantised weights."""
    parts = getattr(model, "parts", None)
    return [model.denoiser, *([] if parts is None else [parts["language model"]])]


def values(layer: Any) -> Tensor:
    """The numbers that a quantised layer multiplies by."""
    if isinstance(layer, bits.nn.Linear4bit):
        found: Tensor = bits.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return found
    scale = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
    return layer.weight.data.float() * scale[:, None] / 127


def dequantise(model: Any) -> None:
    """Plain layers with the same values in place of the quantised ones."""
    for module in inner(model):
        for name, layer in list(module.named_modules()):
            if small_memory.is_quantised(getattr(layer, "weight", None)):
                plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
                plain.weight, plain.bias = nn.Parameter(values(layer).float(), False), layer.bias
                module.set_submodule(name, plain)
        for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
            module.__dict__.pop(flag, None)


def gradients(model: Any, condition: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The velocity of a LoRA training step, and the gradients by parameter."""
    grid = type(model).outline(model.options, "cpu").grid
    torch.manual_seed(0)
    tuned = lora.tune(model, "lora", LORA, checkpointing=False)
    with torch.no_grad():
        for number, parameter in enumerate(tuned.parameters.values()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 10)
    noisy = [torch.randn(grid, generator=torch.Generator().manual_seed(7))]
    (velocity,) = tuned.module(noisy, torch.tensor([0.5]), condition)
    velocity.square().sum().backward()
    return velocity.detach(), {name: each.grad for name, each in tuned.parameters.items()}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("name", EVERY)
def test_training_is_that_of_the_dequantised_model(name: str, kind: str) -> None:
    model, same = load(name, quantize=kind), load(name, quantize=kind)
    dequantise(same)
    assert not any(small_memory.quantised(each) for each in inner(same))
    # Outside training, int8 rounds activations too: there the texts are read by the full model.
    readers = (model, same) if kind == "nf4" else [load(name)] * 2
    texts = [reader.condition(["a red cup"]) for reader in readers]
    (velocity, found), (other, expected) = gradients(model, texts[0]), gradients(same, texts[1])
    assert off(velocity, other) < 1e-5
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        assert off(gradient, expected[key]) < 1e-4, key
    reached = {name for name, each in model.denoiser.named_parameters() if each.grad is not None}
    assert all("lora_" in each for each in reached)


@pytest.mark.parametrize("name", EVERY)
def test_parts_are_quantised_as_named(name: str) -> None:
    def names(part: str) -> list[set[str]]:
        return [set(small_memory.quantised(each)) for each in inner(load(name, quantize="nf4", quantize_part=part))]

    everything, understanding, generation = names("all"), names("understanding"), names("generation")
    assert any(understanding)
    assert any(generation)
    for whole, one, other in zip(everything, understanding, generation, strict=True):
        assert one | other == whole
        assert not one & other
    assert small_memory.quantised(load(name).denoiser) == []


def test_bagel_s_experts_hold_all_large_weights() -> None:
    """Of a layer, all but norms and biases."""
    model = load("bagel", quantize="nf4")
    linear = [name for name, each in model.denoiser.named_modules() if isinstance(each, nn.Linear)]
    layers = [name for name in linear if ".layers." in name]
    wanted = "|".join(EXPERTS.values())
    assert layers == [name for name in layers if re.fullmatch(wanted, name)]
    assert sorted(small_memory.quantised(model.denoiser)) == sorted(f"{name}.weight" for name in layers)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("name", EVERY)
def test_weights_take_the_bytes_that_are_planned(name: str, kind: str) -> None:
    outline = MODELS[name][0].outline(options_of(name, quantize=kind), "cpu")
    model = load(name, quantize=kind)  # after the plan: what is kept of that must not be used
    held = [small_memory.size(each.parameters()) for each in inner(model)]
    assert small_memory.size(outline.denoiser.parameters()) == held[0]
    if len(held) == 2:
        assert outline.parts["judge"] == held[1]
    assert sum(held) < sum(small_memory.size(each.parameters()) for each in inner(load(name)))


def test_no_more_than_one_tensor_is_there_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is quantised as it is read."""
    sizes: list[int] = []
    put = small_memory.put

    def watched(module: nn.Module, name: str, tensor: Tensor) -> None:
        put(module, name, tensor)
        full = [each for n, each in module.named_parameters() if not each.is_meta and n in wanted]
        sizes.append(sum(not small_memory.is_quantised(each) or each.dtype.is_floating_point for each in full))

    wanted = set(small_memory.quantised(load("bagel", quantize="nf4").denoiser))
    monkeypatch.setattr(small_memory, "put", watched)
    load("bagel", quantize="nf4")
    assert sizes
    assert max(sizes) == 0


def test_answers_and_images_come_from_quantised_weights() -> None:
    plain, small = (load("bagel", quantize=kind) for kind in ("none", "nf4"))
    one, other = (model.decode(model._draw(["a red cup"], [0])[0])[0] for model in (plain, small))
    assert 0 < off(other, one) < 2


# ---- saved and loaded again ------------------------------------------------------------------------------------------


def test_the_saved_lora_is_that_of_the_full_model(tmp_path: Path) -> None:
    """The same names and shapes as without quantising; and it loads on the full model."""
    folders = {}
    for kind in ("none", "nf4"):
        model = load("bagel", quantize=kind)
        torch.manual_seed(0)
        tuned = lora.tune(model, "lora", LORA, checkpointing=False)
        folders[kind] = tmp_path / kind
        lora.save(model, tuned, folders[kind], {}, str(GOLDENS / "bagel" / "checkpoint"))
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in folders.values())
    assert {name: each.shape for name, each in one.items()} == {name: each.shape for name, each in other.items()}
    full = load("bagel")
    trained.apply(full, folders["nf4"])
    assert not any("lora_" in name for name, _ in full.denoiser.named_parameters())


def test_rounds_add_up_on_quantised_weights(tmp_path: Path) -> None:
    """Merging would round small changes away: each round's LoRA stays beside the weights, and the last is trained."""

    def step(model: Any, folder: Path | None) -> tuple[Tensor, lora.Tuned]:
        tuned = lora.tune(model, "lora", LORA, checkpointing=False)
        with torch.no_grad():
            for number, parameter in enumerate(tuned.parameters.values()):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 1000)
        if folder is not None:
            lora.save(model, tuned, folder, {})
        return velocity(model, tuned.module), tuned

    def velocity(model: Any, module: nn.Module) -> Tensor:
        grid = type(model).outline(model.options, "cpu").grid
        noisy = [torch.randn(grid, generator=torch.Generator().manual_seed(7))]
        with torch.no_grad():
            found: Tensor = module.eval()(noisy, torch.tensor([0.5]), model.condition(["a red cup"]))[0]
        return found

    first, tuned = step(load("bagel", quantize="nf4"), tmp_path / "1")
    before = set(tuned.parameters)
    again = load("bagel", quantize="nf4")
    assert off(velocity(again, again.denoiser), first) > 0
    trained.apply(again, tmp_path / "1")
    assert off(velocity(again, again.denoiser), first) < 1e-6
    second, tuned = step(again, tmp_path / "2")
    assert set(tuned.parameters) == before
    assert off(second, first) > 0
    last = load("bagel", quantize="nf4")
    for folder in ("1", "2"):
        trained.apply(last, tmp_path / folder)
    assert off(velocity(last, last.denoiser), second) < 1e-6
    assert not any(parameter.requires_grad for parameter in last.denoiser.parameters())


def test_generation_experts_are_trained_whole_beside_quantised_understanding(tmp_path: Path) -> None:
    options = {"quantize": "nf4", "experts": "generation"}
    with pytest.raises(TrainingError, match=r"holds in 4 or 8 bits.*adapter.quantize_part=understanding"):
        lora.tune(load("bagel", **options), "full", LORA, checkpointing=False)
    model = load("bagel", **options, quantize_part="understanding")
    tuned = lora.tune(model, "full", LORA, checkpointing=False)
    with torch.no_grad():
        for parameter in tuned.parameters.values():
            parameter.add_(1)
    lora.save(model, tuned, tmp_path / "full", {})
    again = Bagel(BagelOptions(checkpoint=str(tmp_path / "full"), device="cpu"))
    for name, parameter in again.denoiser.named_parameters():
        if name in tuned.parameters:
            assert torch.equal(parameter, tuned.parameters[name].to(parameter))
    with pytest.raises(CheckpointError, match="cannot be written whole"):
        trained.export(model, tmp_path / "whole")


def test_an_export_loads_full_weights_and_leaves_other_runs_as_they_are(tmp_path: Path) -> None:
    registry = discover()

    def run(*settings: str) -> Run:
        return Run(tmp_path, load_settings("bagel", ("shapes",), None, settings, registry), registry)

    plain, small = run("adapter.device=auto"), run("adapter.device=auto", "adapter.quantize=nf4")
    assert in_full(plain) is plain
    options = in_full(small).settings.adapter.options
    assert options.get("quantize", "none") == "none"
    assert options["device"] == "cpu"
    assert small.settings.adapter.options["quantize"] == "nf4"  # by which its records are read


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for name in MODELS:
        with pytest.raises(ConfigError, match=r'quantize=nf4 needs the package bitsandbytes.*"srum\[8bit\]"'):
            small_memory.check(MODELS[name][1](quantize="nf4"))
    with pytest.raises(ConfigError, match="needs the package bitsandbytes"):
        load("bagel", quantize="nf4")


def gguf(folder: Path) -> None:
    (folder / "ema.safetensors").unlink()
    (folder / "bagel-Q4_K_M.gguf").write_bytes(b"GGUF")


def stored_as(dtype: torch.dtype) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "ema.safetensors")
        name = next(name for name in tensors if name.endswith("q_proj.weight"))
        save_file({**tensors, name: tensors[name].to(dtype)}, folder / "ema.safetensors")

    return change


@each_row(
    "change, words",
    [
        (gguf, r"bagel-Q4_K_M.gguf. A quantised checkpoint \(GGUF\) cannot be used here; give the original"),
        (stored_as(torch.int8), r"q_proj.weight \(I8\).*give the original one. adapter.quantize=nf4"),
        (stored_as(torch.float8_e4m3fn), r"q_proj.weight \(F8_E4M3\).*give the original one. adapter.quantize=nf4"),
    ],
)
def test_a_checkpoint_that_is_quantised_already_is_refused(
    tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(GOLDENS / "bagel" / "checkpoint", folder)
    change(folder)
    with pytest.raises(CheckpointError, match=words):
        Bagel(BagelOptions(checkpoint=str(folder), device="cpu"))
