"""Make a small BAGEL checkpoint with random weights, in the published layout: for tests, and to pretrain from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from attrs import frozen
from safetensors.torch import save_file
from torch import nn

from srum_bagel.autoencoder import Autoencoder, AutoencoderSizes
from srum_bagel.chat import BOS, END, EOS, START
from srum_bagel.checkpoint import build_sizes
from srum_bagel.denoiser import BagelDenoiser
from srum_bagel.vision import Eye
from srum_core.models.byte_pairs import train_tokenizer

SPECIAL = ("<|endoftext|>", BOS, EOS, START, END)

AUTOENCODER = AutoencoderSizes(widths=(64, 64, 64), blocks=0, channels=16)


@frozen
class Blueprint:
    """Sizes of a small model; pictures are `side` pixels, latent cells `factor · patch` pixels."""

    side: int = 32
    hidden: int = 128
    mlp: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    vision_hidden: int = 64
    vision_mlp: int = 128
    vision_layers: int = 3
    vision_heads: int = 4
    vision_patch: int = 4
    autoencoder: AutoencoderSizes = AUTOENCODER
    patch: int = 2
    vocabulary: int = 440
    theta: float = 10000.0


def create(directory: Path, blueprint: Blueprint, corpus: Iterable[str], seed: int = 0) -> None:
    """Write the whole directory. Velocities start at zero (`llm2vae`), residual outputs small."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(corpus, blueprint.vocabulary, directory, SPECIAL, SPECIAL[0], EOS)
    b = blueprint
    language = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": b.hidden,
        "intermediate_size": b.mlp, "num_hidden_layers": b.layers, "num_attention_heads": b.heads,
        "num_key_value_heads": b.kv_heads, "vocab_size": -(-len(tokenizer) // 16) * 16, "rms_norm_eps": 1e-6,
        "rope_theta": b.theta, "max_position_embeddings": 4096, "tie_word_embeddings": False, "qk_norm": True,
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh", "hidden_size": b.vision_hidden,
        "intermediate_size": b.vision_mlp, "num_hidden_layers": b.vision_layers + 1, "num_channels": 3,
        "num_attention_heads": b.vision_heads, "patch_size": b.vision_patch, "image_size": b.side,
        "layer_norm_eps": 1e-6,
    }  # fmt: skip
    (directory / "llm_config.json").write_text(json.dumps(language, indent=2) + "\n")
    (directory / "vit_config.json").write_text(json.dumps(vision, indent=2) + "\n")
    channels, factor = b.autoencoder.channels, b.autoencoder.factor
    sizes = build_sizes(
        language, vision, cell=b.patch**2 * channels,
        latent_side=b.side // (factor * b.patch), vision_side=b.side // b.vision_patch,
    )  # fmt: skip
    denoiser = BagelDenoiser(sizes.language, sizes.cell, sizes.latent_side, (0, 0), sizes.theta)
    eye = Eye(sizes.vision, b.hidden, sizes.vision_side)
    _initialise(denoiser, b.layers)
    nn.init.normal_(eye.vit_model.vision_model.embeddings.position_embedding.weight, std=0.02)
    save_file({**denoiser.state_dict(), **eye.state_dict()}, directory / "ema.safetensors", metadata={"format": "pt"})
    autoencoder = Autoencoder(b.autoencoder)
    names = autoencoder.official_keys()
    save_file(
        {names[key]: _as_stored(names[key], value) for key, value in autoencoder.state_dict().items()},
        directory / "ae.safetensors", metadata={"format": "pt"},
    )  # fmt: skip


def _initialise(denoiser: BagelDenoiser, layers: int) -> None:
    for name, parameter in denoiser.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2 and "pos_embed" not in name:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            if "o_proj" in name or "down_proj" in name:
                parameter.data /= (2 * layers) ** 0.5
    nn.init.normal_(denoiser.language_model.model.embed_tokens.weight, std=0.5)
    nn.init.zeros_(denoiser.llm2vae.weight)


def _as_stored(name: str, value: torch.Tensor) -> torch.Tensor:
    """Attention matrices are stored as 1×1 convolutions."""
    return value[:, :, None, None] if "attn_1" in name and value.dim() == 2 else value
