"""The published layout, and the other repositories that it needs: the language model's configuration and tokenizer,
SigLIP's configuration, and the autoencoder. Sizes that no file states are read from the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from transformers import Qwen2Config, Qwen3Config, SiglipVisionConfig

from srum_core.errors import CheckpointError
from srum_core.models.hub import Checkpoints, download
from srum_core.models.weights import (
    PICKLE,
    SAFETENSORS,
    Stored,
    differences,
    fill,
    header,
    loading,
    read_json,
    read_tensors,
    refuse,
    shapes_of,
)
from srum_showo2.autoencoder import Autoencoder, converted
from srum_showo2.denoiser import ShowO2Denoiser, Sizes
from srum_showo2.flow_head import ROPE
from srum_showo2.options import Options

STEMS = ("pytorch_model", "diffusion_pytorch_model", "model")
"""Names of the weights: a single file and shards have the first, the index of shards has the second."""
CHECKPOINTS = Checkpoints(
    patterns=["*.json", "*.bin", "*.safetensors"],
    published={
        "showlab/show-o2-1.5B": 5_700_000_000,
        "showlab/show-o2-1.5B-HQ": 5_700_000_000,
        "showlab/show-o2-7B": 17_900_000_000,
    },
    weights="*.[bs][ia][nf]*",  # .bin and .safetensors
    needs="Training its flow head needs a GPU that holds the weights in bfloat16, and the head's gradients and "
    "optimiser in float32 (srum doctor --plan shows how much). To see the whole method on this machine, run a bundled "
    "model: srum-train --adapter bagel --preset shapes.",
    instead=", or build the tiny model of the preset shapes: python -m pretraining.showo2 --out runs/tiny-showo2",
)
ATTENTION: dict[str, Any] = {"attn_implementation": "sdpa"}
SIGLIP = "google/siglip-so400m-patch14-384"
PUBLISHED_SIGLIP: dict[str, Any] = {
    "num_attention_heads": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
"""Sizes of that model that the weights do not show."""
VAE, VAE_FILE, VAE_STEM = "Wan-AI/Wan2.1-T2V-14B", "Wan2.1_VAE.pth", "diffusion_pytorch_model"
"""The reference's autoencoder, its file, and the file of diffusers' edition."""
LANGUAGE = ("llm_model_path", "adapter.language_model", ("*.json", "merges.txt"))
VISION = ("clip_pretrained_model_path", "adapter.vision", ("config.json",))
"""Fields of config.json that name other repositories, the settings that replace them, and the files needed."""
Shapes = Mapping[str, Sequence[int]]


@frozen
class Checkpoint:
    """An open checkpoint: only headers and configurations are read."""

    stored: Stored
    sizes: Sizes
    language: Path
    """The directory of the tokenizer."""


def open_checkpoint(options: Options) -> Checkpoint:
    """Open a directory in the published layout, or a hub id. Strict: every tensor that the model needs is there with
    its shape, and no other. Raises CheckpointError with every difference."""
    directory = CHECKPOINTS.find(options.checkpoint, options.device)
    config = read_json(directory / "config.json")
    if not str(config.get("_class_name", "")).startswith("Showo2"):
        raise CheckpointError(
            f"{directory / 'config.json'} is of _class_name {config.get('_class_name')!r}; Show-o2's is Showo2Qwen2_5."
        )
    stored = _weights(directory)
    language = _beside(directory, config, options.language_model, *LANGUAGE)
    language_fields = read_json(language / "config.json")
    with loading(f"The model that {directory} describes"):
        sizes = read_sizes(directory, config, language_fields, _vision(directory, config, options), stored.shapes)
    return Checkpoint(stored, sizes, language)


def _weights(directory: Path) -> Stored:
    """Open the weights, pickles first, as they are published."""
    for ending in (PICKLE, SAFETENSORS):
        if any((directory / f"{stem}{ending}{end}").is_file() for stem in STEMS for end in ("", ".index.json")):
            return Stored.open(directory, STEMS, "Show-o2", ending)
    return Stored.open(directory, STEMS[:1], "Show-o2", PICKLE)  # raises


def _beside(
    directory: Path, config: Mapping[str, Any], option: str, field: str, setting: str, patterns: Sequence[str]
) -> Path:
    """Find the directory that the option, or else the configuration, names: in the checkpoint, or on the hub."""
    name = option or str(config.get(field, ""))
    if not name:
        raise CheckpointError(
            f"{directory / 'config.json'} has no {field}, and Show-o2's repository does not contain those files: "
            f"name their directory with {setting}."
        )
    folder = Path(name).expanduser() if option else directory / name
    if folder.is_dir() and (option or folder.resolve().is_relative_to(directory.resolve())):
        return folder
    return download(name, setting, patterns)


def _vision(directory: Path, config: Mapping[str, Any], options: Options) -> Mapping[str, Any]:
    """Return heads, activation and epsilon of the semantic layers."""
    if not options.vision and config.get(VISION[0], SIGLIP) == SIGLIP:
        return PUBLISHED_SIGLIP
    folder = _beside(directory, config, options.vision, *VISION)
    fields = read_json(folder / "config.json")
    fields = fields.get("vision_config", fields)
    if missing := [key for key in PUBLISHED_SIGLIP if key not in fields]:
        # transformers leaves out fields with the class's defaults
        defaults = SiglipVisionConfig()
        fields = {**fields, **{key: getattr(defaults, key) for key in missing}}
    return {key: fields[key] for key in PUBLISHED_SIGLIP}


def read_sizes(
    directory: Path,
    config: Mapping[str, Any],
    language: Mapping[str, Any],
    vision: Mapping[str, Any],
    shapes: Shapes,
) -> Sizes:
    """Return the sizes of every part, and check that the tensors are exactly those of the parts.

    language  the language model's configuration
    vision    heads, activation and epsilon of the semantic layers"""
    block = "diffusion_head_a.0."
    needed = (
        "showo.model.embed_tokens.weight", "image_embedder_und.proj.weight", "position_embedding.weight",
        "und_trans.layers.0.mlp.fc1.weight", f"{block}self_attn.q_norm.weight", f"{block}self_attn.q_proj.weight",
        f"{block}self_attn.k_proj.weight", f"{block}mlp.gate_proj.weight",
    )  # fmt: skip
    refuse(
        f"The weights in {directory} lack the flow head; a Show-o2 checkpoint with its flow head is needed",
        [f"missing: {key}" for key in needed if key not in shapes],
    )
    semantic_width, channels, patch, _ = shapes["image_embedder_und.proj.weight"]
    (queries, width), head = shapes[f"{block}self_attn.q_proj.weight"], shapes[f"{block}self_attn.q_norm.weight"][0]
    sizes = Sizes(
        language=language_config(language, shapes["showo.model.embed_tokens.weight"][0]),
        semantic=SiglipVisionConfig(
            hidden_size=semantic_width,
            intermediate_size=shapes["und_trans.layers.0.mlp.fc1.weight"][0],
            num_hidden_layers=_count("und_trans.layers", shapes),
            attention_dropout=0.0,
            **ATTENTION,
            **vision,
        ),
        head=head_config(
            width=width,
            layers=_count("diffusion_head_a", shapes),
            heads=queries // head,
            kv_heads=shapes[f"{block}self_attn.k_proj.weight"][0] // head,
            head_width=head,
            mlp=shapes[f"{block}mlp.gate_proj.weight"][0],
        ),
        channels=channels,
        patch=patch,
        side=math.isqrt(shapes["position_embedding.weight"][0]),
        tied="showo.lm_head.weight" not in shapes,
    )
    refuse(
        f"The weights in {directory} do not match its configuration",
        [*differences(expected_shapes(sizes), shapes, unused=True), *_contradictions(config, sizes)],
        "Sizes of the language model are those of its own config.json: adapter.language_model names it.",
    )
    return sizes


def expected_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the model, by name."""
    with torch.device("meta"):
        return shapes_of(ShowO2Denoiser(sizes, (0, 0)).state_dict())


def _count(layers: str, shapes: Shapes) -> int:
    pattern = re.compile(rf"{re.escape(layers)}\.(\d+)\.")
    return len({match[1] for name in shapes if (match := pattern.match(name))})  # the comparison shows gaps


def _contradictions(config: Mapping[str, Any], sizes: Sizes) -> list[str]:
    values = {
        "llm_vocab_size": sizes.language.vocab_size,
        "hidden_size": sizes.language.hidden_size,
        "image_latent_dim": sizes.channels,
        "patch_size": sizes.patch,
        "num_diffusion_layers": sizes.head.num_hidden_layers,
        "add_time_embeds": True,
    }
    return [
        f"{key}: {config[key]} in the configuration, {value} in the weights"
        for key, value in values.items()
        if config.get(key, value) not in (value, None)
    ]


def language_config(config: Mapping[str, Any], rows: int) -> Qwen2Config:
    """Return the language model's configuration, with the stored number of embedding rows: config.json has more."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "rms_norm_eps", "hidden_act", "max_position_embeddings")  # fmt: skip
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta", 1e6)
    fields: dict[str, Any] = {key: config[key] for key in names if key in config}
    return Qwen2Config(
        **fields,
        vocab_size=rows,
        rope_parameters={"rope_type": "default", "rope_theta": float(theta)},
        tie_word_embeddings=False,  # the file may hold two matrices despite the configuration
        use_sliding_window=False,
        attention_dropout=0.0,
        **ATTENTION,
    )


def head_config(width: int, layers: int, heads: int, kv_heads: int, head_width: int, mlp: int) -> Qwen3Config:
    return Qwen3Config(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_width,
        rms_norm_eps=1e-6,
        attention_bias=False,
        attention_dropout=0.0,
        use_sliding_window=False,
        rope_parameters=dict(ROPE),
        **ATTENTION,
    )


# ---- the autoencoder -------------------------------------------------------------------------------------------------


def find_vae(options: Options, checkpoint: Path) -> Path:
    """Find the file of its weights: from the option, in the checkpoint, or on the hub. Raises CheckpointError."""
    name = options.vae
    place = Path(name).expanduser() if name else checkpoint
    if place.is_file():
        return place
    file = _vae_in(place, bool(name))
    if file is None and not (name and place.is_dir()):
        place = download(name or VAE, "adapter.vae", [VAE_FILE, "vae/*"])
        file = _vae_in(place, True)
    if file is None:
        raise CheckpointError(
            f"{place} holds no {VAE_FILE}, nor a folder vae with {VAE_STEM}{SAFETENSORS}: set adapter.vae to "
            f"Wan2.1's autoencoder ({VAE} on the hub)."
        )
    return file


def _vae_in(folder: Path, itself: bool) -> Path | None:
    """Find its file in a folder, original or diffusers' edition; `itself`: the folder may be the latter's vae."""
    names = (VAE_FILE, f"vae/{VAE_STEM}{SAFETENSORS}", *([f"{VAE_STEM}{SAFETENSORS}"] if itself else []))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def vae_width(options: Options, checkpoint: Path) -> int:
    """Return the channels of its first layer, from the file's header."""
    return _width(converted({name: shape for name, (_, shape) in header(find_vae(options, checkpoint)).items()}))


def _width(shapes: Shapes) -> int:
    return shapes.get("encoder.conv_in.weight", (96,))[0]  # the comparison shows a missing one


def load_vae(path: Path, channels: int, device: torch.device) -> Autoencoder:
    """Load it under the original or diffusers' names, in float32: it is small, and 16-bit decoding is visible.

    Raises CheckpointError."""
    tensors = read_tensors(path)
    with loading(f"The autoencoder {path}"):
        tensors = converted(tensors)
    with torch.device("meta"):
        model = Autoencoder(_width(shapes_of(tensors)), channels)
    fill(model.net, tensors, path, f"{path} is not the autoencoder of Wan2.1 with {channels} channels", device)
    return model.eval()
