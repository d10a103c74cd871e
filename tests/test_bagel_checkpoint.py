"""The published layout: sizes of the 7B model, strict loading, sharding, saving, and what a machine cannot hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from srum_bagel.checkpoint import build_sizes
from srum_bagel.denoiser import BagelDenoiser
from srum_bagel.model import Bagel
from srum_bagel.options import Options
from srum_bagel.vae import Autoencoder, AutoencoderSizes
from srum_bagel.vision import Eye
from srum_core.errors import CheckpointError
from srum_core.models import hub
from srum_core.models.weights import Stored

GOLDEN = Path(__file__).parent / "golden" / "bagel" / "checkpoint"
SMALL = {"generation_sides": (160, 64), "vision_sides": (112, 56), "device": "cpu"}


# ---- BAGEL-7B-MoT, from its published configuration ----------------------------------------------------------------

LANGUAGE = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu",
    "max_position_embeddings": 32768, "tie_word_embeddings": False,
}  # fmt: skip
VISION = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "patch_size": 14, "image_size": 980, "num_channels": 3, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip


def expected_7b() -> dict[str, tuple[int, ...]]:
    """Names and shapes as the published file has them, written out from the layout's description."""
    d, f, v, hd, h, k, dv, fv = 3584, 18944, 152064, 128, 28, 4, 1152, 4304
    out: dict[str, tuple[int, ...]] = {
        "language_model.model.embed_tokens.weight": (v, d),
        "language_model.lm_head.weight": (v, d),
    }
    for g in ("", "_moe_gen"):
        out[f"language_model.model.norm{g}.weight"] = (d,)
        for i in range(28):
            layer = f"language_model.model.layers.{i}"
            attention = f"{layer}.self_attn"
            out |= {
                f"{layer}.input_layernorm{g}.weight": (d,), f"{layer}.post_attention_layernorm{g}.weight": (d,),
                f"{attention}.q_proj{g}.weight": (h * hd, d), f"{attention}.q_proj{g}.bias": (h * hd,),
                f"{attention}.k_proj{g}.weight": (k * hd, d), f"{attention}.k_proj{g}.bias": (k * hd,),
                f"{attention}.v_proj{g}.weight": (k * hd, d), f"{attention}.v_proj{g}.bias": (k * hd,),
                f"{attention}.o_proj{g}.weight": (d, h * hd),
                f"{attention}.q_norm{g}.weight": (hd,), f"{attention}.k_norm{g}.weight": (hd,),
                f"{layer}.mlp{g}.gate_proj.weight": (f, d), f"{layer}.mlp{g}.up_proj.weight": (f, d),
                f"{layer}.mlp{g}.down_proj.weight": (d, f),
            }  # fmt: skip
    vision = "vit_model.vision_model"
    out |= {
        "time_embedder.mlp.0.weight": (d, 256), "time_embedder.mlp.0.bias": (d,),
        "time_embedder.mlp.2.weight": (d, d), "time_embedder.mlp.2.bias": (d,),
        "vae2llm.weight": (d, 64), "vae2llm.bias": (d,), "llm2vae.weight": (64, d), "llm2vae.bias": (64,),
        "latent_pos_embed.pos_embed": (64 * 64, d), "vit_pos_embed.pos_embed": (70 * 70, d),
        "connector.fc1.weight": (d, dv), "connector.fc1.bias": (d,),
        "connector.fc2.weight": (d, d), "connector.fc2.bias": (d,),
        f"{vision}.embeddings.patch_embedding.weight": (dv, 3 * 14 * 14),
        f"{vision}.embeddings.patch_embedding.bias": (dv,),
        f"{vision}.embeddings.position_embedding.weight": (4900, dv),
        f"{vision}.post_layernorm.weight": (dv,), f"{vision}.post_layernorm.bias": (dv,),
    }  # fmt: skip
    for i in range(26):
        layer = f"{vision}.encoder.layers.{i}"
        for norm in ("layer_norm1", "layer_norm2"):
            out |= {f"{layer}.{norm}.weight": (dv,), f"{layer}.{norm}.bias": (dv,)}
        for part in ("q", "k", "v", "out"):
            out |= {f"{layer}.self_attn.{part}_proj.weight": (dv, dv), f"{layer}.self_attn.{part}_proj.bias": (dv,)}
        out |= {f"{layer}.mlp.fc1.weight": (fv, dv), f"{layer}.mlp.fc1.bias": (fv,)}
        out |= {f"{layer}.mlp.fc2.weight": (dv, fv), f"{layer}.mlp.fc2.bias": (dv,)}
    return out


def test_the_7b_configuration_has_every_published_tensor() -> None:
    sizes = build_sizes(LANGUAGE, VISION, cell=64, latent_side=64, vision_side=70)
    with torch.device("meta"):
        modules = [
            BagelDenoiser(sizes.language, sizes.cell, sizes.latent_side, (0, 1), sizes.theta),
            Eye(sizes.vision, 3584, 70),
        ]
    ours = {key: tuple(value.shape) for module in modules for key, value in module.state_dict().items()}
    assert ours == expected_7b()
    count = sum(value.numel() for module in modules for value in module.state_dict().values())
    assert round(count / 1e9, 3) == 14.607


def test_the_published_autoencoder_has_244_tensors() -> None:
    with torch.device("meta"):
        net = Autoencoder(AutoencoderSizes((128, 256, 512, 512), 2, 16))
    names = net.official_keys()
    assert len(set(names.values())) == 244
    assert round(sum(value.numel() for value in net.state_dict().values()) / 1e6, 2) == 83.82
    shapes = {names[key]: tuple(value.shape) for key, value in net.state_dict().items()}
    assert shapes["decoder.up.3.block.0.conv1.weight"] == (512, 512, 3, 3)
    assert shapes["decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert "encoder.mid.attn_1.proj_out.weight" in shapes
    assert not any("upsample" in key for key in shapes if key.startswith("decoder.up.0."))


# ---- strict loading ------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "model"))


def load(directory: Path, **options) -> Bagel:
    return Bagel(Options(checkpoint=str(directory), **{**SMALL, **options}))


def edit(directory: Path, change, name: str = "ema") -> None:
    tensors = load_file(directory / f"{name}.safetensors")
    change(tensors)
    save_file(tensors, directory / f"{name}.safetensors")


def test_every_problem_of_the_weights_is_named(copy: Path) -> None:
    def change(tensors):
        del tensors["llm2vae.bias"]
        tensors["time_embedder.mlp.0.bias"] = torch.zeros(3)

    edit(copy, change)
    with pytest.raises(CheckpointError) as error:
        load(copy)
    assert "missing: llm2vae.bias" in str(error.value)
    assert "time_embedder.mlp.0.bias: stored (3,), expected (64,)" in str(error.value)
    assert str(copy) in str(error.value)


@pytest.mark.parametrize("name", ["ema", "ae"])
def test_a_tensor_that_nothing_reads_is_refused(copy: Path, name: str) -> None:
    edit(copy, lambda tensors: tensors.update(surplus=torch.zeros(1)), name)
    with pytest.raises(CheckpointError, match="unused: surplus"):
        load(copy)


@pytest.mark.parametrize("name", ["llm_config.json", "vit_config.json", "ema.safetensors", "ae.safetensors"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name.split(".")[0]):
        load(copy)


def test_fine_tuned_and_sharded_weights_load(copy: Path) -> None:
    """`model.safetensors`, split over two files with an index."""
    tensors = load_file(copy / "ema.safetensors")
    (copy / "ema.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:40], "model-00002-of-00002.safetensors": names[40:]}
    for file, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, copy / file)
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    ours, original = load(copy), load(GOLDEN)
    assert all(
        torch.equal(a, b) for a, b in zip(ours.denoiser.parameters(), original.denoiser.parameters(), strict=True)
    )
    ours.save(copy.parent / "saved", {"llm2vae.bias": ours.denoiser.llm2vae.bias + 1})
    again = load(copy.parent / "saved")
    assert torch.equal(again.denoiser.llm2vae.bias, ours.denoiser.llm2vae.bias + 1)
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        load(copy)


def test_saving_keeps_names_files_and_untouched_bytes(tmp_path: Path) -> None:
    model = load(GOLDEN)
    key = "language_model.model.layers.0.self_attn.q_proj_moe_gen.weight"
    model.save(tmp_path / "out", {key: model.denoiser.get_parameter(key) * 2})
    before, after = load_file(GOLDEN / "ema.safetensors"), load_file(tmp_path / "out" / "ema.safetensors")
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {key}
    assert {path.name for path in GOLDEN.iterdir()} == {path.name for path in (tmp_path / "out").iterdir()}
    assert (GOLDEN / "ae.safetensors").read_bytes() == (tmp_path / "out" / "ae.safetensors").read_bytes()
    assert torch.equal(load(tmp_path / "out").denoiser.get_parameter(key), 2 * model.denoiser.get_parameter(key))


def test_a_model_card_is_not_passed_on(copy: Path, tmp_path: Path) -> None:
    (copy / "README.md").write_text("measured on these very weights")
    load(copy).save(tmp_path / "out", {})
    assert not (tmp_path / "out" / "README.md").exists()
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_saving_a_name_that_upstream_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lora_A"):
        load(GOLDEN).save(tmp_path / "out", {"lora_A": torch.zeros(1)})


# ---- what a machine cannot hold ------------------------------------------------------------------------------------


def test_a_large_checkpoint_without_accelerator_says_what_is_needed(monkeypatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    with pytest.raises(CheckpointError) as error:
        Bagel(Options())
    assert "29 GB" in str(error.value)
    assert "--preset shapes" in str(error.value)
    assert "adapter.device=cpu" in str(error.value)


def test_a_large_local_directory_is_refused_before_loading(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    with (tmp_path / "ema.safetensors").open("wb") as file:
        file.truncate(hub.LARGE + 1)
    with pytest.raises(CheckpointError, match="no accelerator"):
        Bagel(Options(checkpoint=str(tmp_path)))


def test_an_unknown_checkpoint_says_where_it_was_looked_for(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="neither a directory here nor a repository"):
        Bagel(Options(checkpoint="nobody/nothing-here"))
    with pytest.raises(CheckpointError, match="bundled:shapes"):
        Bagel(Options(checkpoint="bundled:nothing"))


def test_a_hub_id_is_downloaded_with_the_files_that_are_needed(monkeypatch) -> None:
    asked = {}

    def download(repository: str, allow_patterns: list[str]) -> str:
        asked.update(repository=repository, patterns=allow_patterns)
        return str(GOLDEN)

    monkeypatch.setattr(hub, "snapshot_download", download)
    load(Path("someone/small-bagel"))
    assert asked["repository"] == "someone/small-bagel"
    assert all(any(path.match(pattern) for pattern in asked["patterns"]) for path in GOLDEN.iterdir())


def test_half_precision_weights_stay_half(copy: Path) -> None:
    model = load(copy, dtype="bfloat16")
    assert {p.dtype for p in model.denoiser.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.autoencoder.parameters()} == {torch.float32}


def test_no_tensor_is_left_on_the_meta_device() -> None:
    model = load(GOLDEN)
    for module in (model.denoiser, model.eye, model.autoencoder):
        assert not [k for k, v in [*module.named_parameters(), *module.named_buffers()] if v.is_meta]


def test_files_are_read_by_header_only(copy: Path) -> None:
    part = Stored.open(copy, ("ema",), "BAGEL")
    assert part.shapes["llm2vae.bias"] == (64,)
