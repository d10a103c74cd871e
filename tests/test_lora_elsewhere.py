"""LoRA weights load by the loaders of PEFT and diffusers onto an untrained model, and as a checkpoint on the base that
they name; so does what `srum export` makes of them."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel, LuminaNextDiT2DModel
from near import off
from peft import PeftModel
from torch import Tensor

from srum_core import config, plugins
from srum_core.cli.main import main
from srum_core.config import Settings
from srum_core.errors import ConfigError
from srum_core.options import Use
from srum_core.runs.run import Run
from srum_core.stages.chunks import Step
from srum_core.stages.preflight import problems
from srum_core.training import lora

GOLDENS = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def registry() -> plugins.Registry:
    return plugins.discover()


def settings_of(name: str, checkpoint: str | Path, registry: plugins.Registry) -> Settings:
    return config.load_settings(name, [], None, [f'adapter.checkpoint="{checkpoint}"'], registry)


def trained(model: Any, folder: Path, base: str, seed: int = 0, **about: Any) -> dict[str, Tensor]:
    """Save LoRA weights that change the model; returns the denoiser's weights with them."""
    tuned = lora.tune(model, "lora", config.Lora(rank=2), False)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.parameters.values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))
    lora.save(model, tuned, folder, {"round": 1, **about}, base)
    return weights(tuned.module.merge_and_unload())  # type: ignore[operator]


def weights(denoiser: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone().float() for name, parameter in denoiser.named_parameters()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(off(found[name], expected[name]) <= 1e-5 for name in expected)


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    [
        ("bagel", str(GOLDENS / "bagel/checkpoint")),
        ("blip3o", str(GOLDENS / "blip3o/checkpoint")),
        ("omnigen2", str(GOLDENS / "omnigen2/checkpoint")),
        ("showo2", str(GOLDENS / "showo2/checkpoint")),
        ("toy:ToyModel", ""),
    ],
)
def test_peft_loads_what_an_adapter_saved_and_so_does_its_checkpoint(
    name: str, checkpoint: str, registry: plugins.Registry, tmp_path: Path
) -> None:
    if not checkpoint:
        checkpoint = str(tmp_path / "base")
        registry.create("adapter", name).save(tmp_path / "base", {})
    make = lambda: registry.create("adapter", settings_of(name, checkpoint, registry).adapter)  # noqa: E731
    plain = weights(make().denoiser)
    expected = trained(make(), tmp_path / "lora", checkpoint)
    assert not same(plain, expected)
    config = json.loads((tmp_path / "lora/adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == checkpoint

    model = make()
    inner = model.denoiser.get_submodule(model.recipe.prefix)  # a library's own model: its names
    PeftModel.from_pretrained(inner, str(tmp_path / "lora")).merge_and_unload()
    assert same(weights(model.denoiser), expected)

    run = Run(tmp_path / "run", settings_of(name, tmp_path / "lora", registry), registry)
    assert same(weights(run.model(0).denoiser), expected)
    assert not problems(run, [Step("evaluate", None)])[1:]  # of the adapter; there is no benchmark


def trained_run(folder: Path, name: str, registry: plugins.Registry, rounds: int = 1) -> tuple[Run, dict[str, Tensor]]:
    """A run that has LoRA weights of each round, and the denoiser's weights with all of them."""
    checkpoint = str(GOLDENS / name / "checkpoint")
    run = Run.create(folder, settings_of(name, checkpoint, registry), registry)
    for round in range(1, rounds + 1):
        checkpoints = run.stage_folder("train", round)
        expected = trained(run.model(round - 1), checkpoints, checkpoint, seed=round)
        (checkpoints / "DONE").write_text("1")
    return run, expected


def export(run: Run, out: Path, *arguments: str) -> int:
    return main(["export", str(run.folder), "--out", str(out), *arguments])


def test_diffusers_loads_lora_weights_of_omnigen2(
    registry: plugins.Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the class of diffusers whose modules have the names and shapes of OmniGen2's own; two rounds are one file."""
    run, expected = trained_run(tmp_path / "run", "omnigen2", registry, rounds=2)
    assert export(run, tmp_path / "out", "--to", "diffusers") == 0
    assert "It loads with load_lora_weights of a pipeline of diffusers." in capsys.readouterr().out
    base = settings_of("omnigen2", GOLDENS / "omnigen2/checkpoint", registry)
    plain = weights(registry.create("adapter", base.adapter).denoiser)
    own = json.loads((GOLDENS / "omnigen2/checkpoint/transformer/config.json").read_text("utf-8"))
    known = inspect.signature(Lumina2Transformer2DModel).parameters
    like = Lumina2Transformer2DModel(
        **{key: value for key, value in own.items() if key in known}, cap_feat_dim=own["text_feat_dim"]
    )
    like.load_state_dict(plain)
    pipeline = Lumina2Pipeline(like, None, None, None, None)
    pipeline.load_lora_weights(str(tmp_path / "out"))
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    assert same(weights(like), expected)


def test_peft_loads_two_rounds_as_one(
    registry: plugins.Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, expected = trained_run(tmp_path / "run", "bagel", registry, rounds=2)
    assert export(run, tmp_path / "out", "--to", "peft") == 0
    model = Run(tmp_path / "other", settings_of("bagel", tmp_path / "out", registry), registry).model(0)
    assert same(weights(model.denoiser), expected)
    first = json.loads((run.stage_folder("train", 1) / "adapter_config.json").read_text("utf-8"))
    (run.stage_folder("train", 1) / "adapter_config.json").write_text(json.dumps(first | {"use_rslora": True}), "utf-8")
    assert export(run, tmp_path / "again", "--to", "peft") == 2
    assert "are of a special kind" in capsys.readouterr().err


def test_rounds_that_trained_other_modules_are_one_too(registry: plugins.Registry, tmp_path: Path) -> None:
    run, expected = trained_run(tmp_path / "run", "bagel", registry, rounds=1)
    second = run.model(1)
    evolved = evolve(second.recipe, lora=r".*\.0\..*o_proj_moe_gen")
    second.recipe = evolved
    folder = run.stage_folder("train", 2)
    expected = trained(second, folder, str(GOLDENS / "bagel/checkpoint"), seed=5)
    (folder / "DONE").write_text("2")
    assert export(run, tmp_path / "out", "--to", "peft") == 0
    model = Run(tmp_path / "other", settings_of("bagel", tmp_path / "out", registry), registry).model(0)
    assert same(weights(model.denoiser), expected)


def test_diffusers_loads_the_head_of_blip3o(registry: plugins.Registry, tmp_path: Path) -> None:
    """Whole, with LoRA merged: the class has no loader of LoRA weights."""
    run, expected = trained_run(tmp_path / "run", "blip3o", registry)
    assert export(run, tmp_path / "out", "--to", "diffusers") == 0
    head: Any = LuminaNextDiT2DModel.from_pretrained(tmp_path / "out")
    names = {name for name in expected if name.startswith("dit.model.") and "caption_projection" not in name}
    assert same(
        {f"dit.model.{name}": each for name, each in weights(head).items() if name != "pad_token"},
        {name: expected[name] for name in names},
    )


def test_an_adapter_without_a_class_of_diffusers_names_those_that_have_one(
    registry: plugins.Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = trained_run(tmp_path / "run", "bagel", registry)
    assert export(run, tmp_path / "out", "--to", "diffusers") == 2
    said = capsys.readouterr().err
    assert "diffusers has no class for the model that bagel trains." in said
    assert "--to diffusers is for: blip3o, omnigen2 (LoRA)." in said
    assert not (tmp_path / "out").exists()


def test_lora_weights_that_were_trained_on_others_take_them_along(registry: plugins.Registry, tmp_path: Path) -> None:
    base = tmp_path / "base"
    registry.create("adapter", "toy:ToyModel").save(base, {})
    trained(registry.create("adapter", "toy:ToyModel"), tmp_path / "one", str(base))
    first = Run(tmp_path / "a", settings_of("toy:ToyModel", tmp_path / "one", registry), registry)
    expected = trained(first.model(0), tmp_path / "two", str(base), seed=1, on_top_of=["../one"])
    run = Run(tmp_path / "b", settings_of("toy:ToyModel", tmp_path / "two", registry), registry)
    use, folders = run.trained(0)
    assert use.options["checkpoint"] == str(base)
    assert folders == [tmp_path / "one", tmp_path / "two"]
    assert same(weights(run.model(0).denoiser), expected)
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(ConfigError, match=r"two holds LoRA weights that were trained on top of those in .*one, which"):
        run.trained(0)


def test_lora_weights_without_a_base_are_refused(
    registry: plugins.Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(registry.create("adapter", "toy:ToyModel"), tmp_path / "lora", "")
    arguments = ["--adapter", "toy:ToyModel", "--checkpoint", str(tmp_path / "lora"), "a cat"]
    assert main(["generate", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert "lora holds LoRA weights and names no base model" in capsys.readouterr().err


def test_lora_weights_whose_base_is_gone_are_refused_by_name(
    registry: plugins.Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(registry.create("adapter", "toy:ToyModel"), tmp_path / "lora", str(tmp_path / "gone"))
    arguments = ["--adapter", "toy:ToyModel", "--checkpoint", str(tmp_path / "lora"), "a cat"]
    assert main(["generate", *arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"lora holds LoRA weights for the base model {tmp_path / 'gone'}, which is not there." in said
    assert "base_model_name_or_path in" in said


def test_lora_weights_are_no_checkpoint_of_an_answerer(registry: plugins.Registry, tmp_path: Path) -> None:
    trained(registry.create("adapter", "toy:ToyModel"), tmp_path / "lora", "x")
    with pytest.raises(ConfigError, match="holds LoRA weights, not a whole model"):
        registry.create("answerer", Use("toy:ToyModel", {"checkpoint": str(tmp_path / "lora")}))


def test_the_command_line_generates_with_them(registry: plugins.Registry, tmp_path: Path) -> None:
    base = tmp_path / "base"
    registry.create("adapter", "toy:ToyModel").save(base, {})
    trained(registry.create("adapter", "toy:ToyModel"), tmp_path / "lora", str(base))
    images = []
    for checkpoint in (base, tmp_path / "lora"):
        out = tmp_path / f"out-{checkpoint.name}"
        arguments = ["--adapter", "toy:ToyModel", "--checkpoint", str(checkpoint), "a cat", "--out", str(out)]
        assert main(["generate", *arguments]) == 0
        (image,) = out.rglob("*.png")
        images.append(image.read_bytes())
    assert images[0] != images[1]
