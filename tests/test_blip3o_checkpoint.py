"""BLIP3-o's published layout: every form of it, strict loading, traps, saving, and what a machine cannot hold."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from blip3o_layouts import (
    BESIDE,
    CHECKPOINT,
    build,
    copied,
    edit,
    feed_forward,
    fewer_queries,
    sharded,
    tied,
    tower_inside,
)
from near import off
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig

from srum_blip3o import dit, eva
from srum_blip3o.checkpoint import BASE, TRAINED, meta_shapes
from srum_blip3o.model import Blip3o
from srum_blip3o.options import Options
from srum_blip3o.text_encoder import language_config
from srum_core.errors import CheckpointError
from srum_core.models import hub
from srum_core.models.qwen_vl import official_name
from srum_core.testing import sample_image

NORM = "dit.model.norm_out.linear_2.weight"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copied(tmp_path)


# ---- the forms it comes in -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [sharded, tower_inside, lambda each: sharded(tower_inside(each))])
def test_other_forms_hold_the_same_model(copy: Path, form: Callable[[Path], Path]) -> None:
    model, original = build(form(copy)), build()
    (one,), (other,) = model.generate(["a boat"], [1]), original.generate(["a boat"], [1])
    assert one.image.tobytes() == other.image.tobytes()
    image = sample_image((96, 64))
    assert torch.equal(model.encode([image])[0], original.encode([image])[0])


def test_tied_embeddings_are_one_matrix(copy: Path) -> None:
    language = build(tied(copy)).parts["language model"]
    assert language.lm_head.weight.data_ptr() == language.model.language_model.embed_tokens.weight.data_ptr()
    untied = build().parts["language model"]
    assert untied.lm_head.weight.data_ptr() != untied.model.language_model.embed_tokens.weight.data_ptr()


def test_queries_are_not_feature_tokens(copy: Path) -> None:
    model = build(fewer_queries(copy, 16))
    assert model.denoiser.conditions(model.condition(["a boat", None])).shape == (2, 16, 64)
    assert model.side == 8
    assert model.generate(["a boat"], [1])[0].image.size == (32, 32)


@pytest.mark.parametrize("width", [96, 170, 200, 256])
def test_t4_any_feed_forward_width_is_read_from_the_weights(copy: Path, width: int) -> None:
    """Below, at and above what the class would make of the head's width (170)."""
    model = build(feed_forward(copy, width))
    assert model.denoiser.head.layers[0].feed_forward.linear_1.weight.shape[0] == width
    assert torch.stack(model.denoiser([torch.randn(8, 8, 24)], torch.tensor([0.5]), [None])).isfinite().all()


def test_a_checkpoint_without_tower_draws_if_its_preset_is_known(tmp_path: Path) -> None:
    model = build(edit(copied(tmp_path, tower=False), lambda _: None, gen_vision_tower="eva-clip-E-14-plus",
                       gen_pooling="early_pool2d_4"))  # fmt: skip
    assert model.side == 8
    assert model.generate(["a boat"], [1])
    with pytest.raises(CheckpointError, match=r"no feature tower inside.*adapter\.feature_tower.*x0"):
        model.encode([sample_image()])


def test_the_tower_may_lie_anywhere(tmp_path: Path) -> None:
    checkpoint = copied(tmp_path / "a", tower=False)
    with pytest.raises(CheckpointError, match="no feature tower"):
        build(checkpoint).encode([sample_image()])
    expected = build().encode([sample_image()])[0]
    for where in (BESIDE, BESIDE / "pytorch_model.bin"):
        assert torch.equal(build(checkpoint, feature_tower=str(where)).encode([sample_image()])[0], expected)
    shutil.copytree(BESIDE, checkpoint / BESIDE.name)
    assert torch.equal(build(checkpoint).encode([sample_image()])[0], expected)


def test_the_width_of_the_towers_heads_must_be_known(copy: Path) -> None:
    (copy.parent / BESIDE.name / "tower_config.json").unlink()
    with pytest.raises(CheckpointError, match=r'"eva-clip-tiny" is unknown.*adapter\.feature_head_width'):
        build(copy).encode([sample_image()])
    expected = build().encode([sample_image()])[0]
    assert torch.equal(build(copy, feature_head_width=12).encode([sample_image()])[0], expected)
    assert off(build(copy, feature_head_width=6).encode([sample_image()])[0], expected) > 1e-3


# ---- published sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "billions"), [(4864, 1.355), (7168, 1.653)])
def test_the_published_head_has_its_parameters(width: int, billions: float) -> None:
    """Counted without the projection in front of it."""
    shapes = meta_shapes(dit.build, dit.Sizes(3584, 1792, 1792, 24, 28, 28, width))
    inner = [torch.Size(shape).numel() for name, shape in shapes.items() if "caption_projection" not in name]
    assert round(sum(inner) / 1e9, 3) == billions
    assert shapes["layers.23.feed_forward.linear_2.weight"] == (1792, width)
    assert shapes["time_caption_embed.timestep_embedder.linear_1.weight"] == (1024, 256)
    assert dit.read_sizes(shapes) == dit.Sizes(3584, 1792, 1792, 24, 28, 28, width)


def test_the_published_tower_has_its_parameters() -> None:
    shapes = meta_shapes(eva.Tower, eva.Sizes(1792, 14, 32, 64, 16, 15360))
    assert round(sum(torch.Size(shape).numel() for shape in shapes.values()) / 1e9, 2) == 4.35
    preset = eva.PRESETS["eva-clip-E-14-plus"]
    assert eva.read_sizes(shapes, 1792 // preset.head_width) == eva.Sizes(1792, 14, preset.grid, 64, 16, 15360)


# ---- traps -----------------------------------------------------------------------------------------------------------


def test_t1_the_text_model_has_the_text_models_sizes() -> None:
    """transformers, left to itself, finds the vision tower's nested configuration instead."""
    stated = json.loads((CHECKPOINT / "config.json").read_text())
    ours = language_config(stated, CHECKPOINT)
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_key_value_heads", "vocab_size"):
        assert getattr(ours.get_text_config(), name) == stated[name]
    assert ours.vision_config.hidden_size == stated["vision_config"]["hidden_size"]
    assert ours.tie_word_embeddings == stated["tie_word_embeddings"]
    assert ours.get_text_config().rope_parameters["mrope_section"] == stated["rope_scaling"]["mrope_section"]
    trapped = Qwen2_5_VLConfig.from_pretrained(str(CHECKPOINT))
    assert trapped.get_text_config().hidden_size != stated["hidden_size"]  # where this fails, the trap is gone


def test_t3_no_parameter_is_left_to_chance() -> None:
    """The library's unused `pad_token` is uninitialised memory, and norms and averages would go over it."""
    for _ in range(2):
        model = build()
        names = dict(model.denoiser.named_parameters())
        assert not [name for name in names if "pad_token" in name]
        assert all(parameter.isfinite().all() for parameter in names.values())
    assert model.denoiser.head.config.cross_attention_dim == model.denoiser.head.config.hidden_size
    assert not [k for k, v in [*names.items(), *model.denoiser.named_buffers()] if v.is_meta]


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "blip3o_next", None])
def test_another_kind_of_model_is_refused(copy: Path, kind: str | None) -> None:
    edit(copy, lambda _: None, model_type=kind)
    with pytest.raises(CheckpointError, match=r"blip3o_qwen.*BLIP3o-NEXT"):
        build(copy)


# ---- strict ----------------------------------------------------------------------------------------------------------


def test_every_problem_of_the_weights_is_named(copy: Path) -> None:
    def change(tensors):
        del tensors["model.dit.model.norm_out.linear_2.bias"]
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["visual.merger.ln_q.weight"] = torch.zeros(3)
        tensors["model.surplus"] = torch.zeros(1)

    with pytest.raises(CheckpointError) as error:
        build(edit(copy, change))
    message = str(error.value)
    assert "missing: model.dit.model.norm_out.linear_2.bias" in message
    assert "missing: model.layers.1.mlp.up_proj.weight" in message
    assert "visual.merger.ln_q.weight: stored (3,), expected (32,)" in message
    assert "unused: model.surplus" in message
    assert str(copy) in message


@pytest.mark.parametrize("field", [{"n_query": 32}, {"gen_hidden_size": 8}])
def test_a_configuration_that_contradicts_the_weights_is_refused(copy: Path, field: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match=f"{next(iter(field))}: .* in the configuration"):
        build(edit(copy, lambda _: None, **field))


def test_a_model_that_only_looks_is_refused(copy: Path) -> None:
    def change(tensors):
        for name in [name for name in tensors if "dit" in name]:
            del tensors[name]

    with pytest.raises(CheckpointError, match="lack the diffusion head"):
        build(edit(copy, change))


@pytest.mark.parametrize("name", ["missing", "surplus"])
def test_the_towers_weights_are_strict_too(copy: Path, name: str) -> None:
    path = copy.parent / BESIDE.name / "pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    if name == "missing":
        del tensors["blocks.1.mlp.fc2.bias"]
    else:
        tensors["blocks.1.surplus"] = torch.zeros(1)
    torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=r"blocks\.1\.(mlp\.fc2\.bias|surplus)"):
        build(copy).encode([sample_image()])


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler"])
def test_a_missing_part_of_the_decoder_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / "diffusion-decoder" / part)
    with pytest.raises(CheckpointError, match=f"has no {part}.*adapter.decoder"):
        build(copy).generate(["a boat"], [1])
    assert build(copy, decoder=str(CHECKPOINT / "diffusion-decoder")).generate(["a boat"], [1])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name.split(".")[0]):
        build(copy)


def test_a_missing_shard_is_named(copy: Path) -> None:
    (sharded(copy) / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00003"):
        build(copy)


# ---- no code of a checkpoint is run ----------------------------------------------------------------------------------


def test_code_in_a_checkpoint_is_neither_run_nor_passed_on(copy: Path, tmp_path: Path) -> None:
    trap = "from pathlib import Path\nPath(__file__).with_suffix('.run').touch()\n"
    for place_of_code in (copy / "modeling.py", copy / "diffusion-decoder" / "pipeline_llava_gen.py"):
        place_of_code.write_text(trap)
    edit(copy, lambda _: None, auto_map={"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"})
    model = build(copy)
    model.generate(["a boat"], [1])
    model.export(tmp_path / "out")
    assert not list(tmp_path.rglob("*.run"))
    assert not list((tmp_path / "out").rglob("*.py"))


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil.run"),))


def test_a_tower_file_that_would_run_something_is_refused(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (copy.parent / BESIDE.name / "pytorch_model.bin").write_bytes(pickle.dumps({"cls_token": Evil()}))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*tensors"):
        build(copy).encode([sample_image()])
    assert not (tmp_path / "evil.run").exists()


def test_a_scheduler_that_is_none_is_refused(copy: Path) -> None:
    path = copy / "diffusion-decoder" / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace("EulerDiscreteScheduler", "DiffusionPipeline"))
    with pytest.raises(CheckpointError, match="no scheduler of diffusers"):
        build(copy).generate(["a boat"], [1])


# ---- saving ----------------------------------------------------------------------------------------------------------


def moved(model: Blip3o, *names: str) -> dict[str, torch.Tensor]:
    return {name: model.denoiser.get_parameter(name) + 1 for name in names}


def test_only_what_was_trained_is_saved_and_it_loads_like_a_checkpoint(tmp_path: Path) -> None:
    model = build()
    changed = moved(model, NORM, "latent_queries")
    model.save(tmp_path / "one", changed)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {TRAINED, BASE}
    assert set(load_file(tmp_path / "one" / TRAINED)) == {f"model.{NORM}", "model.latent_queries"}
    again = build(tmp_path / "one")
    for name, parameter in again.denoiser.named_parameters():
        assert torch.equal(parameter, changed.get(name, model.denoiser.get_parameter(name))), name
    # The next round trains something else: what the first one trained is not lost.
    again.save(tmp_path / "two", moved(again, "dit.model.norm_out.linear_2.bias"))
    second = build(tmp_path / "two").denoiser
    assert torch.equal(second.get_parameter(NORM), changed[NORM])
    assert len(load_file(tmp_path / "two" / TRAINED)) == 3


def test_what_was_trained_says_which_checkpoint_it_needs(copy: Path, tmp_path: Path) -> None:
    build(copy).save(tmp_path / "out", moved(build(copy), NORM))
    copy.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"only trained weights for .*checkpoint.*base\.json"):
        build(tmp_path / "out")
    (tmp_path / "out" / BASE).write_text(json.dumps({"checkpoint": str(tmp_path / "elsewhere")}))
    build(tmp_path / "out")


def test_weights_of_another_model_are_refused(copy: Path, tmp_path: Path) -> None:
    build(copy).save(tmp_path / "out", moved(build(copy), "latent_queries"))
    fewer_queries(copy)
    with pytest.raises(CheckpointError, match=r"does not belong.*\n.*latent_queries: stored \(1, 64, 64\), expected"):
        build(tmp_path / "out")


def test_an_image_that_is_not_finite_is_a_failure() -> None:
    model = build()
    assert model.generate(["a boat"], [1])[0].failure == ""
    model.parts["decoder"].autoencoder.decoder.conv_out.bias.data.fill_(torch.nan)
    assert "not finite" in model.generate(["a boat"], [1])[0].failure


def test_trained_weights_that_lost_a_tensor_are_refused(tmp_path: Path) -> None:
    build().save(tmp_path / "out", moved(build(), NORM, "latent_queries"))
    tensors = load_file(tmp_path / "out" / TRAINED)
    save_file({"model.latent_queries": tensors["model.latent_queries"]}, tmp_path / "out" / TRAINED)
    with pytest.raises(CheckpointError, match=rf"is incomplete: 1 difference\n  missing: model\.{NORM}"):
        build(tmp_path / "out")
    (tmp_path / "out" / TRAINED).unlink()
    with pytest.raises(CheckpointError, match=r"trained\.safetensors is missing"):
        build(tmp_path / "out")


def test_saving_a_name_that_upstream_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lora_A"):
        build().save(tmp_path / "out", {"dit.model.lora_A": torch.zeros(1)})


@pytest.mark.parametrize("form", [lambda each: each, sharded, tied, tower_inside])
def test_an_export_is_a_whole_checkpoint(copy: Path, tmp_path: Path, form: Callable[[Path], Path]) -> None:
    """Files, names, types and every byte of what was not trained are the published checkpoint's."""
    form(copy)
    (copy / "README.md").write_text("measured on these very weights")
    build(copy).save(tmp_path / "trained", moved(build(copy), NORM))
    build(tmp_path / "trained").export(tmp_path / "whole")
    before, after = files(copy), files(tmp_path / "whole")
    beside = {path for path in after if path.parts[0] == BESIDE.name}
    assert after.keys() - beside == before.keys() - {Path("README.md")}
    for path in after.keys() - beside:
        if path.suffix != ".safetensors" or path.parts[0] == "diffusion-decoder":
            assert after[path].read_bytes() == before[path].read_bytes(), path
            continue
        old, new = load_file(before[path]), load_file(after[path])
        assert old.keys() == new.keys()
        differing = {name for name in old if not torch.equal(old[name], new[name])}
        assert differing == ({f"model.{NORM}"} & old.keys())
    shutil.rmtree(copy)
    shutil.rmtree(copy.parent / BESIDE.name)
    model = build(tmp_path / "whole")
    assert model.generate(["a boat"], [1])
    assert model.encode([sample_image()])[0].shape == (8, 8, 24)


def files(folder: Path) -> dict[Path, Path]:
    return {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}


def test_half_precision_is_kept(copy: Path, tmp_path: Path) -> None:
    def halve(tensors):
        tensors |= {name: tensor.bfloat16() for name, tensor in tensors.items()}

    model = build(edit(copy, halve), dtype="bfloat16")
    assert {each.dtype for each in model.denoiser.parameters()} == {torch.bfloat16}
    model.save(tmp_path / "out", {NORM: model.denoiser.get_parameter(NORM).float() + 1})
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / TRAINED).values()} == {torch.bfloat16}
    decoder = model.parts["decoder"]
    assert (decoder.pipeline.unet.dtype, decoder.autoencoder.dtype) == (torch.bfloat16, torch.float32)


def test_names_of_the_language_model() -> None:
    assert official_name("model.language_model.layers.0.mlp.up_proj.weight") == "model.layers.0.mlp.up_proj.weight"
    assert official_name("model.visual.merger.ln_q.weight") == "visual.merger.ln_q.weight"
    assert official_name("lm_head.weight") == "lm_head.weight"


# ---- what a machine cannot hold --------------------------------------------------------------------------------------


def test_a_large_checkpoint_without_accelerator_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    with pytest.raises(CheckpointError) as error:
        Blip3o(Options())
    assert "BLIP3o/BLIP3o-Model-8B is 33 GB of weights and this machine has no accelerator" in str(error.value)
    assert "--preset shapes" in str(error.value)
    assert "adapter.device=cpu" in str(error.value)


def test_a_large_local_directory_is_refused_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(hub.LARGE + 1)
    with pytest.raises(CheckpointError, match="no accelerator"):
        Blip3o(Options(checkpoint=str(tmp_path)))


def test_an_unknown_checkpoint_says_where_it_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="neither a directory here nor a repository"):
        Blip3o(Options(checkpoint="nobody/nothing-here"))


def test_a_hub_id_is_downloaded_without_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the feature tower from where the official code takes it, when an image is first encoded."""
    asked: dict[str, list[str]] = {}

    def download(repository: str, allow_patterns: list[str]) -> str:
        asked[repository] = allow_patterns
        return str(BESIDE if "eva" in repository else CHECKPOINT)

    monkeypatch.setattr(hub, "snapshot_download", download)
    model = build("someone/small-blip3o")
    assert list(asked) == ["someone/small-blip3o"]
    patterns = asked["someone/small-blip3o"]
    assert not any(Path("pipeline_llava_gen.py").match(pattern) for pattern in patterns)
    needed = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert all(any(path.match(pattern) for pattern in patterns) for path in needed)
    model.encode([sample_image()])
    assert model.checkpoint.base == "someone/small-blip3o"
