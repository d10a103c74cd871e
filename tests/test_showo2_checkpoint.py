"""Show-o2 checkpoints: every form of the published layout, what is refused, what is written."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from near import off
from safetensors.torch import save_file
from showo2_layouts import (
    CHECKPOINT,
    SHARDED,
    WEIGHTS,
    Tensors,
    as_safetensors,
    build,
    copied,
    edit,
    sharded,
    sharded_safetensors,
    stored,
    tied,
    untied,
    without_projections,
)

from srum_core.errors import CheckpointError, ConfigError
from srum_core.models import hub
from srum_core.models.weights import Stored, read_tensors
from srum_core.records import Question
from srum_core.testing import sample_image
from srum_showo2.autoencoder import ORIGINAL, converted
from srum_showo2.checkpoint import SIGLIP
from srum_showo2.model import ShowO2
from srum_showo2.options import Options

VAE = "Wan2.1_VAE.pth"
BLOCK, BIAS = "diffusion_head_a.0.", "diffusion_head_b.linear.bias"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copied(tmp_path)


def velocity(model: ShowO2) -> torch.Tensor:
    grid = torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.denoiser([grid], torch.tensor([0.4]), model.condition(["a boat"]))[0]


def weights(model: ShowO2) -> Tensors:
    return {name: each.clone() for name, each in model.denoiser.state_dict().items()}


# ---- forms of the layout ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [sharded, as_safetensors, sharded_safetensors])
def test_every_form_holds_the_same_weights(copy: Path, form: Callable[[Path], Path]) -> None:
    expected = stored(copy)
    found = weights(build(form(copy)))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_output_matrix_is_the_files_whatever_the_configuration_says(copy: Path) -> None:
    """The language model's says that it is tied to the embedding; the reference's own loader unties them."""
    assert json.loads((copy / "llm" / "config.json").read_text())["tie_word_embeddings"]
    model = build(untied(copy))
    embedding = model.denoiser.showo.model.embed_tokens.weight
    assert torch.equal(model.denoiser.showo.lm_head.weight, stored(copy)["showo.lm_head.weight"])
    assert not torch.equal(model.denoiser.showo.lm_head.weight, embedding)


def test_without_an_output_matrix_the_embedding_answers(copy: Path, tmp_path: Path) -> None:
    sample_image().save(tmp_path / "a.png")
    asked = [Question(tmp_path / "a.png", "What?", max_new_tokens=6)]
    as_stored = build(
        edit(copy, lambda each: each["showo.lm_head.weight"].copy_(each["showo.model.embed_tokens.weight"]))
    )
    model = build(tied(copy))
    assert model.denoiser.showo.lm_head.weight is model.denoiser.showo.model.embed_tokens.weight
    assert model.answer(asked) == as_stored.answer(asked)
    assert torch.equal(velocity(model), velocity(as_stored))
    model.save(tmp_path / "out", {BIAS: model.denoiser.get_parameter(BIAS)})
    assert "showo.lm_head.weight" not in stored(tmp_path / "out")


def test_a_language_model_as_wide_as_the_head_has_no_projections(copy: Path, tmp_path: Path) -> None:
    model = build(without_projections(copy))
    assert not [
        name for name, _ in model.denoiser.named_parameters() if "proj" in name.split(".")[0] and "diff" in name
    ]
    assert velocity(model).isfinite().all()
    assert model.generate(["a boat"], [1])
    sample_image().save(tmp_path / "a.png")
    assert isinstance(model.answer([Question(tmp_path / "a.png", "What?", max_new_tokens=3)])[0], str)


def test_files_of_before_pytorch_1_6_are_read(copy: Path) -> None:
    expected = velocity(build())
    torch.save(stored(copy), copy / WEIGHTS, _use_new_zipfile_serialization=False)
    assert torch.equal(velocity(build(copy)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_type_is_read_and_written_back(copy: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    edit(copy, lambda tensors: tensors.update({name: each.to(dtype) for name, each in tensors.items()}))
    model = build(copy, dtype="bfloat16")
    assert {each.dtype for each in model.denoiser.parameters()} == {torch.bfloat16}
    model.save(tmp_path / "out", {BIAS: model.denoiser.get_parameter(BIAS).float() + 1})
    assert {each.dtype for each in stored(tmp_path / "out").values()} == {dtype}


def test_the_configurations_grid_does_not_count(copy: Path) -> None:
    """The table is resized to the grid at hand; the reference uses it as it is where the configuration says so."""
    assert torch.equal(
        velocity(build(edit(copy, dict, image_latent_height=9, image_latent_width=3))), velocity(build())
    )


# ---- repositories beside it ------------------------------------------------------------------------------------------


def test_the_language_model_and_the_autoencoder_may_be_elsewhere(copy: Path, tmp_path: Path) -> None:
    expected = velocity(build())
    (copy / "llm").rename(tmp_path / "qwen")
    (copy / VAE).rename(tmp_path / VAE)
    (copy / "siglip").rename(tmp_path / "siglip")
    settings = {"language_model": str(tmp_path / "qwen"), "vision": str(tmp_path / "siglip")}
    for place in (tmp_path / VAE, tmp_path):
        model = build(copy, vae=str(place), **settings)
        assert torch.equal(velocity(model), expected)


def test_diffusers_edition_of_the_autoencoder_is_the_same(copy: Path, tmp_path: Path) -> None:
    image = sample_image((80, 80))
    (expected,) = build().encode([image])
    folder = tmp_path / "wan" / "vae"
    folder.mkdir(parents=True)
    save_file(converted(read_tensors(copy / VAE)), folder / "diffusion_pytorch_model.safetensors")
    for place in (folder, folder.parent, folder / "diffusion_pytorch_model.safetensors"):
        assert torch.equal(build(copy, vae=str(place)).encode([image])[0], expected)
    (copy / VAE).unlink()
    shutil.copytree(folder, copy / "vae")
    assert torch.equal(build(copy).encode([image])[0], expected)


def test_published_siglip_is_known_by_its_constants(copy: Path) -> None:
    """16 heads; nothing is downloaded. Here the width is 48, so 3 heads become 16 of 3."""
    edit(copy, dict, clip_pretrained_model_path=SIGLIP)
    shutil.rmtree(copy / "siglip")
    model = build(copy)
    assert model.denoiser.sizes.semantic.num_attention_heads == 16
    assert off(velocity(model), velocity(build())) > 1e-3
    edit(copy, dict, clip_pretrained_model_path=None)
    assert torch.equal(velocity(build(copy)), velocity(model))


def test_defaults_are_downloaded_without_code(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each repository with the few files that are needed: Wan's holds 70 GB of others."""
    asked: dict[str, list[str]] = {}
    places = {"showlab/show-o2-1.5B": copy, "Qwen/Qwen2.5-1.5B-Instruct": tmp_path / "qwen"}
    (copy / "llm").rename(places["Qwen/Qwen2.5-1.5B-Instruct"])
    (copy / VAE).rename(tmp_path / VAE)
    edit(copy, dict, llm_model_path="Qwen/Qwen2.5-1.5B-Instruct")

    def download(repository: str, allow_patterns: list[str]) -> str:
        asked[repository] = allow_patterns
        return str(places.get(repository, tmp_path))

    monkeypatch.setattr(hub, "snapshot_download", download)
    ShowO2(Options(device="cpu"))
    assert list(asked) == ["showlab/show-o2-1.5B", "Qwen/Qwen2.5-1.5B-Instruct", "Wan-AI/Wan2.1-T2V-14B"]
    everything = [pattern for patterns in asked.values() for pattern in patterns]
    assert not any(Path("modeling_showo2.py").match(pattern) for pattern in everything)
    needed = {"showlab/show-o2-1.5B": ["config.json", WEIGHTS, SHARDED, "pytorch_model-00001-of-00004.bin"],
              "Qwen/Qwen2.5-1.5B-Instruct": ["config.json", "tokenizer.json", "vocab.json", "merges.txt"],
              "Wan-AI/Wan2.1-T2V-14B": [VAE]}  # fmt: skip
    for repository, files in needed.items():
        for file in files:
            assert any(Path(file).match(pattern) for pattern in asked[repository]), file
    for large in ("model-00001-of-00004.safetensors", "diffusion_pytorch_model-00001-of-00006.safetensors"):
        assert not any(Path(large).match(pattern) for pattern in asked["Qwen/Qwen2.5-1.5B-Instruct"])
        assert not any(Path(large).match(pattern) for pattern in asked["Wan-AI/Wan2.1-T2V-14B"])


def test_a_configuration_cannot_lead_out_of_its_folder(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(copy / "llm", copy.parent / "outside")
    edit(copy, dict, llm_model_path="../outside")
    with pytest.raises(CheckpointError, match=r"adapter\.language_model=\.\./outside"):
        build(copy)
    build(copy, language_model=str(copy.parent / "outside"))


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_every_problem_of_the_weights_is_named(copy: Path) -> None:
    def change(tensors: Tensors) -> None:
        del tensors[BIAS]
        del tensors["showo.model.layers.1.mlp.up_proj.weight"]
        tensors["fusion_proj.0.weight"] = torch.zeros(3)
        tensors["showo.surplus"] = torch.zeros(1)

    with pytest.raises(CheckpointError) as error:
        build(edit(copy, change))
    message = str(error.value)
    assert f"missing: {BIAS}" in message
    assert "missing: showo.model.layers.1.mlp.up_proj.weight" in message
    assert "fusion_proj.0.weight: stored (3,), expected (112,)" in message
    assert "unused: showo.surplus" in message
    assert str(copy) in message


FAULTS: list[tuple[Callable[[Path], Any], str]] = [
    (lambda copy: edit(copy, dict, _class_name="BagelModel"), r"_class_name 'BagelModel'"),
    (lambda copy: edit(copy, dict, llm_vocab_size=448), "llm_vocab_size: 448 in the configuration"),
    (lambda copy: edit(copy, dict, hidden_size=65), "hidden_size: 65 in the configuration"),
    (lambda copy: edit(copy, dict, patch_size=1), "patch_size: 1 in the configuration"),
    (lambda copy: edit(copy, dict, num_diffusion_layers=3), "num_diffusion_layers: 3 in the configuration"),
    (lambda copy: edit(copy, dict, add_time_embeds=False), "add_time_embeds: False in the configuration"),
    (lambda copy: edit(copy, dict, llm_model_path=None), "has no llm_model_path.*adapter.language_model"),
    (lambda copy: edit(copy, lambda each: each.pop(f"{BLOCK}self_attn.q_norm.weight")), "lack the flow head"),
    (lambda copy: edit(copy, lambda each: each[BIAS].fill_(torch.nan)), "not finite"),
    (lambda copy: edit(copy, lambda each: each.update({BIAS: each[BIAS].long()})), "quantised"),
    (lambda copy: (copy / WEIGHTS).unlink(), r"holds no pytorch_model\.bin"),
    (lambda copy: (copy / "config.json").unlink(), r"has no config\.json"),
    (lambda copy: (copy / "llm" / "config.json").unlink(), r"has no config\.json"),
    (lambda copy: (copy / "llm" / "tokenizer.json").write_text("{"), "tokenizer"),
    (lambda copy: (sharded(copy) / "pytorch_model-00002-of-00003.bin").unlink(), "pytorch_model-00002-of-00003"),
    (lambda copy: (copy / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1"), "Git LFS pointer"),
    (lambda copy: torch.save({"model": stored(copy)}, copy / WEIGHTS), "no plain table of tensors"),
    (lambda copy: (copy / VAE).write_bytes(b"<html>"), "web page"),
    (lambda copy: torch.save({ORIGINAL: torch.zeros(5, 3, 3, 3, 3)}, copy / VAE), "is not the autoencoder"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "word"), FAULTS, ids=[word[:25] for _, word in FAULTS])
def test_what_is_wrong_is_said(copy: Path, fault: Callable[[Path], Any], word: str) -> None:
    fault(copy)
    with pytest.raises(CheckpointError, match=word):
        build(copy)


def test_a_language_model_of_another_size_is_refused(copy: Path) -> None:
    speaks = json.loads((copy / "llm" / "config.json").read_text())
    (copy / "llm" / "config.json").write_text(json.dumps({**speaks, "num_hidden_layers": 4}))
    with pytest.raises(CheckpointError, match=r"missing: showo\.model\.layers\.3\.(.*\n)*.*adapter\.language_model"):
        build(copy)


def test_a_tokenizer_of_another_model_is_refused(copy: Path) -> None:
    def longer(tensors: Tensors) -> None:
        for name in ("showo.model.embed_tokens.weight", "showo.lm_head.weight"):
            tensors[name] = torch.cat([tensors[name], tensors[name][:2]])

    with pytest.raises(CheckpointError, match=r"402 entries .* embedding 404 rows.*adapter\.language_model"):
        build(edit(copy, longer, llm_vocab_size=404))


def test_without_an_autoencoder_it_says_where_there_is_one(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (copy / VAE).unlink()
    with pytest.raises(CheckpointError, match=r"adapter\.vae=Wan-AI/Wan2\.1-T2V-14B"):
        build(copy)
    with pytest.raises(CheckpointError, match=r"holds no Wan2\.1_VAE\.pth.*adapter\.vae"):
        build(copy, vae=str(copy / "llm"))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil.run"),))


@pytest.mark.parametrize("file", [WEIGHTS, VAE])
def test_a_pickle_that_would_run_something_is_refused(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (copy / file).write_bytes(pickle.dumps({BIAS: Evil()}))
    with pytest.raises(CheckpointError, match="tensors"):
        build(copy)
    torch.save({BIAS: Evil()}, copy / file)
    with pytest.raises(CheckpointError, match="tensors"):
        build(copy)
    assert not (tmp_path / "evil.run").exists()


@pytest.mark.parametrize("fault", [0, 3, 6, 7, 10, 14], ids=lambda number: FAULTS[number][1][:20])
def test_it_is_found_before_a_run(copy: Path, fault: int) -> None:
    """By files and headers alone."""
    change, word = FAULTS[fault]
    change(copy)
    with pytest.raises(CheckpointError, match=word), hub.offline():
        ShowO2.preflight(Options(checkpoint=str(copy), device="cpu"))


def test_a_run_that_would_start() -> None:
    ShowO2.preflight(Options(checkpoint=str(CHECKPOINT), device="cpu"))
    with pytest.raises(ConfigError, match="multiples of 16"):
        ShowO2.preflight(Options(checkpoint=str(CHECKPOINT), device="cpu", size=(70, 80)))
    with pytest.raises(CheckpointError, match=r"adapter\.vision_size=50"):
        ShowO2.preflight(Options(checkpoint=str(CHECKPOINT), device="cpu", vision_size=50))


def test_a_large_checkpoint_without_accelerator_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    with pytest.raises(CheckpointError, match=r"show-o2-1\.5B is 6 GB of weights and this machine has no accelerator"):
        ShowO2(Options())
    with (tmp_path / WEIGHTS).open("wb") as file:
        file.truncate(hub.LARGE + 1)
    with pytest.raises(CheckpointError, match="no accelerator"):
        ShowO2(Options(checkpoint=str(tmp_path)))


# ---- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [Path, sharded, as_safetensors, sharded_safetensors, tied])
def test_what_is_saved_is_a_whole_checkpoint_in_the_same_form(
    copy: Path, tmp_path: Path, form: Callable[[Path], Path]
) -> None:
    """Files, names, types and every byte of what was not trained are the published checkpoint's."""
    form(copy)
    (copy / "README.md").write_text("measured on these very weights")
    (copy / "modeling.py").write_text("raise SystemExit")
    model = build(copy)
    changed = {BIAS: model.denoiser.get_parameter(BIAS) + 1, "diff_proj.0.bias": torch.zeros(2, 48)[0]}
    model.save(tmp_path / "out", changed)
    before, after = files(copy), files(tmp_path / "out")
    assert after == before - {Path("README.md"), Path("modeling.py")}
    again = weights(build(tmp_path / "out"))
    for name, each in weights(model).items():
        assert torch.equal(again[name], changed.get(name, each)), name
    ending = ".bin" if form in (Path, sharded, tied) else ".safetensors"
    for path in (tmp_path / "out").glob(f"*{ending}"):
        # Nothing that a trained tensor was a view of is written with it.
        assert path.stat().st_size <= 1.02 * (copy / path.name).stat().st_size
    # The configuration and tokenizer of the language model, and the autoencoder, are there too.
    shutil.rmtree(copy)
    assert build(tmp_path / "out").generate(["a boat"], [1])


def test_another_copy_of_the_weights_is_not_passed_on(copy: Path, tmp_path: Path) -> None:
    """It would hold what was there before training."""
    save_file(stored(copy), copy / "diffusion_pytorch_model.safetensors")
    model = build(copy)
    model.save(tmp_path / "out", {BIAS: model.denoiser.get_parameter(BIAS) + 1})
    assert files(copy) - files(tmp_path / "out") == {Path("diffusion_pytorch_model.safetensors")}
    found = Stored.open(tmp_path / "out", ["pytorch_model"], "", ".bin").tensors([BIAS])
    assert torch.equal(found[BIAS], model.denoiser.get_parameter(BIAS) + 1)


def test_saving_a_name_that_upstream_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lora_A"):
        build().save(tmp_path / "out", {"diff_proj.0.lora_A": torch.zeros(1)})


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
