"""OmniGen2's published layout: every form of it, strict loading, traps, saving, and what a machine cannot hold."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from near import off
from omnigen2_layouts import (
    AUTOENCODER,
    CHECKPOINT,
    HEAD,
    LANGUAGE,
    build,
    configure,
    copied,
    edit,
    other_sizes,
    sharded,
    untied,
    weights,
)
from safetensors.torch import load_file
from transformers import Qwen2_5_VLConfig

from srum_core.errors import CheckpointError
from srum_core.models import hub
from srum_core.testing import sample_image
from srum_omnigen2.model import OmniGen2
from srum_omnigen2.options import Options

NORM = "norm_out.linear_2.weight"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copied(tmp_path)


# ---- the forms it comes in -------------------------------------------------------------------------------------------


def test_shards_hold_the_same_model(copy: Path) -> None:
    model, original = build(sharded(copy)), build()
    (one,), (other,) = model.generate(["a boat"], [1]), original.generate(["a boat"], [1])
    assert one.image.tobytes() == other.image.tobytes()
    image = sample_image((96, 64))
    assert torch.equal(model.encode([image])[0], original.encode([image])[0])


def test_embeddings_may_be_tied_or_not(copy: Path) -> None:
    tied = build().parts["language model"]
    assert tied.lm_head.weight.data_ptr() == tied.model.language_model.embed_tokens.weight.data_ptr()
    apart = build(untied(copy)).parts["language model"]
    assert torch.equal(apart.lm_head.weight, apart.model.language_model.embed_tokens.weight.flip(0))


def test_the_copy_of_a_tied_matrix_may_be_stored_too(copy: Path) -> None:
    edit(copy, LANGUAGE, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert build(copy).condition(["a boat"])


def test_names_of_newer_versions_of_transformers_are_known_too(copy: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            newer = re.sub(r"^visual\.", "model.visual.", re.sub(r"^model\.", "model.language_model.", name))
            tensors[newer] = tensors.pop(name)

    model, before = build(edit(copy, LANGUAGE, rename)), build()
    assert torch.equal(model.condition(["a boat"])[0], before.condition(["a boat"])[0])


def test_half_precision_is_kept(copy: Path, tmp_path: Path) -> None:
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {name: tensor.bfloat16() for name, tensor in tensors.items()}

    model = build(edit(copy, HEAD, halve), dtype="bfloat16")
    assert {each.dtype for each in model.denoiser.parameters()} == {torch.bfloat16}
    model.save(tmp_path / "out", {NORM: model.denoiser.get_parameter(NORM).float() + 1})
    assert {tensor.dtype for tensor in load_file(weights(tmp_path / "out", HEAD)).values()} == {torch.bfloat16}
    assert {each.dtype for each in model.parts["autoencoder"].parameters()} == {torch.float32}


def test_every_size_is_read(copy: Path) -> None:
    """Another autoencoder (of two levels, so that a token is 4 pixels), one key and value head, other widths."""
    model = build(other_sizes(copy), size=(24, 8))
    (grid,) = model.encode([sample_image((24, 8))])
    assert tuple(grid.shape) == (2, 6, 12)
    assert model.generate(["a boat"], [1])[0].image.size == (24, 8)
    assert model.denoiser.norm_out.linear_1.in_features == 60
    assert model.denoiser.layers[0].norm2.eps == 1e-2
    assert model.denoiser.layers[0].attn.norm_q.eps == 1e-5


def test_the_configuration_may_be_in_the_newer_form(copy: Path) -> None:
    """transformers 5 writes the text model's fields into a part of their own."""
    before = build().condition(["a boat"])[0]
    path = copy / LANGUAGE / "config.json"
    stated = Qwen2_5_VLConfig(**json.loads(path.read_text())).to_dict()
    assert "text_config" in stated
    path.write_text(json.dumps(stated))
    assert off(build(copy).condition(["a boat"])[0], before) <= 1e-5


# ---- strict ----------------------------------------------------------------------------------------------------------

PARTS = {
    HEAD: ("layers.1.attn.to_k.weight", "ref_image_refiner.0.norm1.linear.bias"),
    LANGUAGE: ("model.layers.1.mlp.up_proj.weight", "visual.merger.ln_q.weight"),
    AUTOENCODER: ("decoder.conv_in.weight", "encoder.conv_out.bias"),
}


@pytest.mark.parametrize("part", PARTS)
def test_every_problem_of_the_weights_is_named(copy: Path, part: str) -> None:
    missing, odd = PARTS[part]

    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[missing]
        tensors[odd] = torch.zeros(3)
        tensors["surplus"] = torch.zeros(1)

    with pytest.raises(CheckpointError) as error:
        build(edit(copy, part, change))
    for words in (f"missing: {missing}", f"{odd}: stored (3,), expected (", "unused: surplus", str(copy / part)):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("part", "field"),
    [(HEAD, name) for name in ("norm_eps", "timestep_scale", "out_channels", "axes_dim_rope", "text_feat_dim")]
    + [(LANGUAGE, name) for name in ("rms_norm_eps", "num_attention_heads", "rope_theta", "vision_config")]
    + [(AUTOENCODER, name) for name in ("scaling_factor", "shift_factor", "norm_num_groups", "use_quant_conv")]
    + [("scheduler", "dynamic_time_shift")],
)
def test_a_missing_field_is_an_error_and_no_default(copy: Path, part: str, field: str) -> None:
    """The official class's defaults are other sizes than the published ones."""
    with pytest.raises(CheckpointError, match=rf"{part}/.*config\.json lacks {field}"):
        build(configure(copy, part, **{field: ...}))


def test_limits_of_images_are_in_the_older_or_the_newer_form(copy: Path) -> None:
    path = copy / "processor" / "preprocessor_config.json"
    stated = json.loads(path.read_text())
    for gone in ({"size"}, {"min_pixels", "max_pixels"}):
        path.write_text(json.dumps({name: value for name, value in stated.items() if name not in gone}))
        assert build(copy).box_format((640, 640)) == build().box_format((640, 640))
    path.write_text(
        json.dumps({name: value for name, value in stated.items() if name != "size" and "pixels" not in name})
    )
    with pytest.raises(CheckpointError, match="lacks min_pixels, max_pixels"):
        build(copy)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        (HEAD, {"axes_dim_rope": [4, 4, 8]}, "is not num_attention_heads"),
        (HEAD, {"num_kv_heads": 3}, "is no multiple of num_kv_heads"),
        (HEAD, {"text_feat_dim": 32}, "the language model's hidden_size"),
        (HEAD, {"out_channels": 8}, "are not in_channels"),
        (AUTOENCODER, {"latent_channels": 3}, "the autoencoder's latent_channels 3"),
        (HEAD, {"num_layers": 2}, "unused: layers.2."),
        (HEAD, {"multiple_of": 256}, "feed_forward"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(copy: Path, part: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build(configure(copy, part, **fields))


@pytest.mark.parametrize("part", [HEAD, LANGUAGE, AUTOENCODER, "processor", "scheduler"])
def test_a_missing_part_is_named_before_a_run(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(CheckpointError, match=f"has no folder {part}"):
        OmniGen2.preflight(Options(checkpoint=str(copy), device="cpu"))


@pytest.mark.parametrize(
    "file",
    [f"{HEAD}/config.json", f"{LANGUAGE}/config.json", f"{AUTOENCODER}/config.json", "scheduler/scheduler_config.json",
     "processor/preprocessor_config.json"],
)  # fmt: skip
def test_a_missing_file_is_named(copy: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(CheckpointError, match=f"has no {Path(file).name}"):
        OmniGen2.preflight(Options(checkpoint=str(copy), device="cpu"))


@pytest.mark.parametrize("part", [HEAD, LANGUAGE, AUTOENCODER])
def test_a_missing_shard_is_named(copy: Path, part: str) -> None:
    next((sharded(copy) / part).glob("*-00002-of-00003.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="00002-of-00003"):
        build(copy)


def test_weights_that_are_not_finite_are_refused(copy: Path) -> None:
    edit(copy, HEAD, lambda tensors: tensors[NORM].fill_(torch.nan))
    with pytest.raises(CheckpointError, match=r"not finite.*norm_out\.linear_2\.weight"):
        build(copy)


# ---- no code of a checkpoint is run ----------------------------------------------------------------------------------


def test_code_in_a_checkpoint_is_neither_run_nor_passed_on(copy: Path, tmp_path: Path) -> None:
    trap = "from pathlib import Path\nPath(__file__).with_suffix('.run').touch()\n"
    for place in ("transformer/transformer_omnigen2.py", "scheduler/scheduling_flow_match_euler_discrete.py", "a.py"):
        (copy / place).write_text(trap)
    configure(copy, LANGUAGE, auto_map={"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"})
    model = build(copy)
    model.generate(["a boat"], [1])
    model.save(tmp_path / "out", {})
    assert not list(tmp_path.rglob("*.run"))
    assert not list((tmp_path / "out").rglob("*.py"))


def test_t2_the_schedulers_class_is_never_loaded(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the name of one of diffusers', whose shift, direction and scale of times are others."""
    import diffusers

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(diffusers.FlowMatchEulerDiscreteScheduler, "__init__", refuse)
    assert build(copy).generate(["a boat"], [1])


# ---- saving ----------------------------------------------------------------------------------------------------------


def files(folder: Path) -> dict[Path, Path]:
    return {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", [lambda each: each, sharded, untied], ids=["one file", "shards", "untied"])
def test_what_is_saved_is_a_whole_checkpoint(copy: Path, tmp_path: Path, form: Callable[[Path], Path]) -> None:
    """Files, names, types and every byte of what was not trained are as they were, the weights for reference images
    included; twice in a row too."""
    form(copy)
    (copy / "README.md").write_text("measured on these very weights")
    model = build(copy)
    changed = {name: model.denoiser.get_parameter(name) + 1 for name in (NORM, "x_embedder.bias")}
    model.save(tmp_path / "one", changed)
    again = build(tmp_path / "one")
    for name, parameter in again.denoiser.named_parameters():
        assert torch.equal(parameter, changed.get(name, model.denoiser.get_parameter(name))), name
    again.save(tmp_path / "two", {})
    before, after = files(copy), files(tmp_path / "two")
    assert after.keys() == before.keys() - {Path("README.md")}
    for path in after:
        if path.suffix != ".safetensors" or path.parts[0] != HEAD:
            assert after[path].read_bytes() == before[path].read_bytes(), path
            continue
        old, new = load_file(before[path]), load_file(after[path])
        assert old.keys() == new.keys()
        assert {name for name in old if not torch.equal(old[name], new[name])} == changed.keys() & old.keys()
    shutil.rmtree(copy)
    assert build(tmp_path / "two").generate(["a boat"], [1])


def test_saving_a_name_that_upstream_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lora_A"):
        build().save(tmp_path / "out", {"layers.0.lora_A": torch.zeros(1)})


# ---- published sizes, and what a machine cannot hold -----------------------------------------------------------------


def test_the_published_sizes_are_those_of_the_specification() -> None:
    """Parameters of every part, and the bytes that a plan counts."""
    found = OmniGen2.outline(Options(), "cuda")
    assert sum(each.numel() for each in found.denoiser.parameters()) == 3_757_602_760
    assert len(found.denoiser.state_dict()) == 549
    assert found.parts["judge"] == 2 * (3_085_938_688 + 668_684_288)
    assert found.parts["generate"] - found.parts["judge"] == 4 * 83_819_683
    assert found.parts["train"] == 0
    assert found.grid == (64, 64, 64)


def test_a_large_checkpoint_without_accelerator_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    with pytest.raises(CheckpointError) as error:
        OmniGen2(Options())
    for words in ("OmniGen2/OmniGen2 is 24 GB of weights and this machine has no accelerator", "--plan"):
        assert words in str(error.value)


def test_a_hub_id_is_downloaded_without_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[str]] = {}

    def download(repository: str, allow_patterns: list[str]) -> str:
        asked[repository] = allow_patterns
        return str(CHECKPOINT)

    monkeypatch.setattr(hub, "snapshot_download", download)
    build("someone/small-omnigen2")
    (patterns,) = asked.values()
    assert not any(Path("transformer/transformer_omnigen2.py").match(pattern) for pattern in patterns)
    needed = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert all(any(path.match(pattern) for pattern in patterns) for path in needed)
