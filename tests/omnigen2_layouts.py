"""The golden OmniGen2 checkpoint in the other forms that the published layout knows, and one of other sizes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from adapter_runs import shard_names, write_shards
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from srum_core.models.qwen_vl import language_config, language_state, official_name
from srum_omnigen2.checkpoint import read_configs
from srum_omnigen2.denoiser import Denoiser
from srum_omnigen2.model import OmniGen2
from srum_omnigen2.options import Options, Sampling

CHECKPOINT = Path(__file__).parent / "golden" / "omnigen2" / "checkpoint"
HEAD, AUTOENCODER, LANGUAGE = "transformer", "vae", "mllm"
STEMS = {HEAD: "diffusion_pytorch_model", AUTOENCODER: "diffusion_pytorch_model", LANGUAGE: "model"}
Tensors = dict[str, Tensor]


def build(checkpoint: Path | str = CHECKPOINT, **options: Any) -> OmniGen2:
    """A model of few steps and small images, with parts that stay."""
    fixed: dict[str, Any] = {
        "device": "cpu", "dtype": "float32", "offload": "none", "size": (64, 48), "sampling": Sampling(steps=3),
    }  # fmt: skip
    return OmniGen2(Options(checkpoint=str(checkpoint), **{**fixed, **options}))


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, folder / "checkpoint"))


def weights(directory: Path, part: str) -> Path:
    return directory / part / f"{STEMS[part]}.safetensors"


def edit(directory: Path, part: str, change: Callable[[Tensors], object]) -> Path:
    """Change a part's weights in place (a dictionary of all)."""
    tensors = load_file(weights(directory, part))
    change(tensors)
    save_file(tensors, weights(directory, part), metadata={"format": "pt"})
    return directory


def configure(directory: Path, part: str, **fields: Any) -> Path:
    """Change fields of a part's configuration; `...` takes one away."""
    path = directory / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    stated = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in stated.items() if value is not ...}))
    return directory


def sharded(directory: Path, count: int = 3) -> Path:
    """Several files and an index, of every part."""
    for part, stem in STEMS.items():
        tensors = load_file(weights(directory, part))
        weights(directory, part).unlink()
        write_shards(directory / part, tensors, count, shard_names(stem), partial(save_file, metadata={"format": "pt"}))
    return directory


def untied(directory: Path) -> Path:
    """Another matrix for speaking than for reading."""

    def add(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).clone()

    return edit(configure(directory, LANGUAGE, tie_word_embeddings=False), LANGUAGE, add)


def other_sizes(directory: Path) -> Path:
    """Random weights of other sizes everywhere: one key and value head, another epsilon, an autoencoder with two levels
    less, a wider language model that is not tied."""
    configure(
        directory, HEAD, hidden_size=60, num_attention_heads=3, num_kv_heads=1, num_layers=2, num_refiner_layers=1,
        axes_dim_rope=[8, 6, 6], multiple_of=32, norm_eps=1e-2, in_channels=3, text_feat_dim=32, ffn_dim_multiplier=0.6,
        timestep_scale=500.0,
    )  # fmt: skip
    configure(
        directory, AUTOENCODER, block_out_channels=[4, 8], layers_per_block=2, latent_channels=3, scaling_factor=0.5,
        shift_factor=-0.2, down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    stated = json.loads((directory / LANGUAGE / "config.json").read_text())
    vision = {**stated["vision_config"], "out_hidden_size": 32}
    configure(
        directory, LANGUAGE, hidden_size=32, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2,
        tie_word_embeddings=False, vision_config=vision,
    )  # fmt: skip
    message = [json.loads((directory / part / "config.json").read_text()) for part in (HEAD, LANGUAGE, AUTOENCODER)]
    configs = read_configs(directory, *message, {"dynamic_time_shift": True})
    torch.manual_seed(0)
    language = Qwen2_5_VLForConditionalGeneration(language_config(message[1])).state_dict()
    spoken = {official_name(name): language[name] for name in language_state(configs.language)}
    autoencoder = type(configs.autoencoder()).from_config(message[2])
    for part, tensors in (
        (HEAD, Denoiser(configs.transformer, references=True).state_dict()),
        (AUTOENCODER, autoencoder.state_dict()),
        (LANGUAGE, spoken),
    ):
        # Nothing stays as it was initialised, so that a term that is forgotten shows.
        noisy = {name: (each + 0.1 * torch.randn(each.shape)).contiguous() for name, each in tensors.items()}
        save_file(noisy, weights(directory, part), metadata={"format": "pt"})
    return directory
