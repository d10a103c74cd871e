"""The published directory layout, read strictly and without a second copy in memory, and written back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from transformers import Qwen2Config, SiglipVisionConfig

from srum_core.errors import CheckpointError
from srum_core.models.hub import Checkpoints
from srum_core.models.weights import loading, read_json

WEIGHTS = ("ema", "model")
"""Stems of the model's weight file, in order of preference."""
CHECKPOINTS = Checkpoints(
    patterns=["*.json", "*.safetensors", "merges.txt"],
    published={"ByteDance-Seed/BAGEL-7B-MoT": 29_200_000_000},
    needs="LoRA training needs a GPU that holds the weights in bfloat16 and the activations of 1024x1024 images (80 "
    "GB is a safe size); full training needs several. To see the whole method on this machine, run the bundled model: "
    "srum-train --adapter bagel --preset shapes.",
    bundled={path.parent.name: path.parent for path in sorted(Path(__file__).parent.glob("*/llm_config.json"))},
    instead=", or try the bundled model: --preset shapes",
)


@frozen
class Sizes:
    """Everything the model is built from. Sizes missing from the layout are inferred from the weights' shapes."""

    language: Qwen2Config
    theta: float
    vision: SiglipVisionConfig
    cell: int
    """Values per latent cell."""
    latent_side: int
    """Largest latent grid side, in cells."""
    vision_side: int
    """Largest side of an image for understanding, in vision patches."""


def read_sizes(directory: Path, shapes: Mapping[str, Sequence[int]]) -> Sizes:
    """From the two config files and the shapes of the weights. The last vision layer is never used and not stored."""
    language = read_json(directory / "llm_config.json")
    vision = read_json(directory / "vit_config.json")
    for key in ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed", "vae2llm.weight"):
        if key not in shapes:
            raise CheckpointError(
                f"The weights in {directory} lack {key}: a checkpoint with generation and understanding is needed."
            )
    with loading(f"The configuration in {directory}"):
        return build_sizes(
            language,
            vision,
            cell=shapes["vae2llm.weight"][1],
            latent_side=math.isqrt(shapes["latent_pos_embed.pos_embed"][0]),
            vision_side=math.isqrt(shapes["vit_pos_embed.pos_embed"][0]),
        )


def build_sizes(language: Mapping[str, Any], vision: Mapping[str, Any], **rest: int) -> Sizes:
    """`language` and `vision` as in `llm_config.json` and `vit_config.json`; unknown keys are accepted."""
    theta = language.get("rope_theta") or language.get("rope_parameters", {}).get("rope_theta", 1e6)
    text_keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                 "vocab_size", "rms_norm_eps", "hidden_act", "max_position_embeddings")  # fmt: skip
    image_keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_channels", "patch_size",
                  "image_size", "hidden_act", "layer_norm_eps", "attention_dropout")  # fmt: skip
    speaks: dict[str, Any] = {key: language[key] for key in text_keys if key in language}
    looks: dict[str, Any] = {key: vision[key] for key in image_keys if key in vision}
    looks |= {"num_hidden_layers": vision["num_hidden_layers"] - 1, "attn_implementation": "sdpa"}
    seen = SiglipVisionConfig(**looks, vision_use_head=False)
    return Sizes(Qwen2Config(**speaks, tie_word_embeddings=False), float(theta), seen, **rest)
