"""Models that are only compared with: diffusers pipelines and Janus, on random checkpoints in their layouts."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny_generators
import torch
from attrs import evolve
from peft import LoraConfig, get_peft_model_state_dict
from PIL import ImageChops
from rows import each_row
from safetensors.torch import load_file, save_file

from srum_core.cli.main import main, train_main
from srum_core.errors import CheckpointError, ConfigError
from srum_core.plugins import discover
from srum_core.testing import GeneratorConformance
from srum_diffusers import Options as DiffusersOptions
from srum_diffusers.generator import Diffusers
from srum_janus import Options as JanusOptions
from srum_janus.generator import Janus

FIXED = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("generators")

    @cache
    def of(kind: str) -> Path:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            getattr(tiny_generators, kind)(folder / kind)
        return folder / kind

    return of


@pytest.fixture(scope="session")
def model_kind(tiny):
    @cache
    def of(kind: str):
        if kind == "janus":
            return Janus(JanusOptions(str(tiny(kind)), **FIXED))
        return Diffusers(DiffusersOptions(str(tiny(kind)), steps=2, guidance=2.0, size=(48, 32), batch=2, **FIXED))

    return of


class _Conformance(GeneratorConformance):
    kind: str

    @pytest.fixture
    def generator(self, model_kind):
        return model_kind(self.kind)


class TestSdxl(_Conformance):
    kind = "sdxl"


class TestStableDiffusion3(_Conformance):
    kind = "sd3"


class TestFlux(_Conformance):
    kind = "flux"


class TestJanus(_Conformance):
    kind = "janus"


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux"])
def test_images_have_the_size_that_is_set(model_kind, kind: str) -> None:
    (sample,) = model_kind(kind).generate(["a red cup"], [0])
    assert sample.image.size == (48, 32)


def test_an_image_is_the_one_that_the_pipeline_draws(model_kind) -> None:
    generator = model_kind("sd3")
    how = {"num_inference_steps": 2, "guidance_scale": 2.0, "width": 48, "height": 32}
    theirs = generator.pipeline("two dogs", generator=torch.Generator().manual_seed(7), **how).images[0]
    assert not ImageChops.difference(theirs, generator.generate(["two dogs"], [7])[0].image).getbbox()


def test_guidance_and_temperature_of_janus_matter(model_kind, tiny) -> None:
    plain = model_kind("janus").generate(["two dogs"], [0])[0].image.tobytes()
    for options in ({"guidance": 1.0}, {"temperature": 0.0}):
        other = Janus(JanusOptions(str(tiny("janus")), **options, **FIXED))
        assert other.generate(["two dogs"], [0])[0].image.tobytes() != plain
    greedy = [each.image.tobytes() for each in other.generate(["two dogs"] * 2, [0, 1])]
    assert greedy[0] == greedy[1]


def test_an_image_is_the_one_that_janus_of_transformers_draws(tiny) -> None:
    """The likeliest tokens with its own guidance."""
    generator = Janus(JanusOptions(str(tiny("janus")), temperature=0.0, guidance=3.0, **FIXED))
    said = [{"role": "user", "content": [{"type": "text", "text": "two dogs"}]}]
    text = generator.tokenizer.apply_chat_template(
        said, chat_template=generator.template, tokenize=False, add_generation_prompt=True
    )
    asked = generator.tokenizer([text + generator.tokenizer.boi_token], return_tensors="pt")
    with torch.no_grad():
        tokens = generator.model.generate(**asked, generation_mode="image", do_sample=False, guidance_scale=3.0)
        pixels = generator.model.decode_image_tokens(tokens)
    theirs = 127.5 * (pixels[0].clamp(-1, 1).numpy() + 1)  # its decoder's pixels are from -1 to 1
    ours = np.asarray(generator.generate(["two dogs"], [0])[0].image)
    assert np.abs(theirs - ours).max() <= 1
    assert ours.std() > 1


@pytest.mark.parametrize("kind", ["sd3", "janus"])
def test_an_image_that_is_not_finite_is_a_failure(tiny, kind: str) -> None:
    if kind == "janus":
        generator = Janus(JanusOptions(str(tiny(kind)), **FIXED))
        net = generator.model
    else:
        generator = Diffusers(DiffusersOptions(str(tiny(kind)), steps=1, size=(32, 32), **FIXED))
        net = generator.pipeline.vae
    assert generator.generate(["a cup"], [0])[0].failure == ""
    (last,) = [each for name, each in net.named_parameters() if name.endswith("decoder.conv_out.bias")]
    with torch.no_grad():
        last.fill_(torch.nan)
    assert "not finite" in generator.generate(["a cup"], [0])[0].failure


def test_weights_that_are_not_finite_are_refused(tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny("sd3"), tmp_path / "sd3")
    (path,) = (folder / "vae").glob("*.safetensors")
    tensors = load_file(path)
    tensors["decoder.conv_out.bias"].fill_(torch.nan)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"vae holds values .* 1 tensor: decoder\.conv_out\.bias"):
        Diffusers(DiffusersOptions(str(folder), **FIXED))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=rf"{path.name} cannot be read: it is cut off"):
        Diffusers(DiffusersOptions(str(folder), **FIXED))


def test_what_a_pipeline_does_not_take_is_refused(tiny) -> None:
    options = DiffusersOptions(str(tiny("sd3")), extra={"negativ_prompt": "blurry"}, **FIXED)
    with pytest.raises(ConfigError, match=r"cannot be given negativ_prompt here. Its call takes .*negative_prompt"):
        Diffusers(options)
    with pytest.raises(ConfigError, match="cannot be given num_images_per_prompt"):
        Diffusers(DiffusersOptions(str(tiny("sd3")), extra={"num_images_per_prompt": 2}, **FIXED))


def test_lora_weights_are_loaded_on_top(tiny, tmp_path: Path, model_kind) -> None:
    base = tiny("sd3")
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(base)
    pipeline.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    weights = get_peft_model_state_dict(pipeline.transformer)
    pipeline.save_lora_weights(tmp_path / "lora", transformer_lora_layers=weights)
    options = DiffusersOptions(str(base), steps=2, guidance=2.0, size=(48, 32), batch=2, **FIXED)
    (plain,) = model_kind("sd3").generate(["a cup"], [0])
    (changed,) = Diffusers(evolve(options, lora=str(tmp_path / "lora"))).generate(["a cup"], [0])
    assert ImageChops.difference(plain.image, changed.image).getbbox()
    save_file({f"unet.{name}": each for name, each in weights.items()}, tmp_path / "other.safetensors")
    for name, why in (("other.safetensors", "its names are another model's"), ("none", "could not be loaded")):
        with pytest.raises(CheckpointError, match=rf"adapter.lora=.*{name}.*{why}"):
            Diffusers(evolve(options, lora=str(tmp_path / name)))


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no pipeline of diffusers"):
        Diffusers(DiffusersOptions(str(tmp_path), **FIXED))
    (tmp_path / "config.json").write_text('{"model_type": "multi_modality"}')
    with pytest.raises(CheckpointError, match=r"model_type 'multi_modality', not 'janus'.*deepseek-community"):
        Janus(JanusOptions(str(tmp_path), **FIXED))


@pytest.mark.parametrize(("name", "made"), [("diffusers", Diffusers), ("janus", Janus)])
def test_a_laptop_does_not_begin_to_download(name: str, made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    with pytest.raises(CheckpointError, match="GB of weights and this machine has no accelerator"):
        discover().create("generator", name)


@each_row("preset", ["flux-dev", "flux-schnell", "sd3-medium", "sdxl"])
def test_presets_are_settings(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srum_core.models.hub.LARGE", float("inf"))  # this machine need not be able to run them
    words = ["eval", "run", "--adapter", "diffusers", "--preset", preset, "--benchmark", "shapes"]
    assert main([*words, "--out", str(tmp_path / "run"), "--dry-run"]) == 0


def test_an_evaluation_from_the_command_line(tiny, tmp_path: Path) -> None:
    model = ["--adapter", "diffusers", "--checkpoint", str(tiny("sd3")), "adapter.size=[32, 32]", "adapter.steps=1"]
    where = ["--benchmark", "shapes", "--out", str(tmp_path / "run"), "evaluate.limit=3", "adapter.device=cpu"]
    assert main(["eval", "run", *model, *where]) == 0
    assert len(list((tmp_path / "run" / "images" / "images").glob("*.png"))) == 3
    (table,) = (tmp_path / "run" / "tables").glob("*/table.json")
    assert "diffusers" in json.loads(table.read_text())["model"]


def test_it_is_neither_trained_nor_asked(tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_main(["--adapter", "diffusers", "--out", str(tmp_path / "run")]) == 2
    assert '"diffusers" only generates images' in capsys.readouterr().err
    assert train_main(["--adapter", "bagel", "--preset", "shapes", "answerer=janus", "--dry-run"]) == 2
    assert '"janus" only generates images' in capsys.readouterr().err
