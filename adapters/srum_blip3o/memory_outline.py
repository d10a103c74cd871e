"""BLIP3-o without its weights: every part on the meta device, and the peak memory of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from srum_blip3o import decoder, dit, eva
from srum_blip3o.checkpoint import grid_side, open_checkpoint
from srum_blip3o.dit import Denoiser
from srum_blip3o.model import LAYERS, make_recipe
from srum_blip3o.options import Options
from srum_blip3o.text_encoder import Reader, allow_recomputing, language_config
from srum_core.models import qwen_vl, small_memory
from srum_core.models.hub import choose_dtype
from srum_core.models.memory_outline import Outline, size_of
from srum_core.models.qwen_vl import ImageInput
from srum_core.models.weights import read_json

CAPTION, QUESTION = 100, 500
"""Tokens of a typical caption with its template, and of a judge's question with its rubric."""
_UNET = {
    "sample_size": 128, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 1792, "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + 1792,
}  # fmt: skip
_VAE = {
    "block_out_channels": (128, 256, 512, 512), "latent_channels": 4, "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


def _published(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "blip3o_qwen", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": 151668,
        "tie_word_embeddings": tied, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "max_position_embeddings": 128000, "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
        "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
                          "out_hidden_size": hidden, "patch_size": 14, "spatial_merge_size": 2, "window_size": 112,
                          "fullatt_block_indexes": [7, 15, 23, 31], "model_type": "qwen2_5_vl"},
    }  # fmt: skip


PUBLISHED = {
    "BLIP3o/BLIP3o-Model-8B": _published(3584, 18944, 28, 28, 4, False),
    "BLIP3o/BLIP3o-Model-4B": _published(2048, 11008, 36, 16, 2, True),
}
"""Configurations of hub ids, so that planning needs no download."""


def outline(options: Options, device: str) -> Outline:
    """For a local checkpoint, or a published one by its hub id; the feature tower, which encodes before training, is
    left out. Raises CheckpointError."""
    known = options.checkpoint in PUBLISHED and not Path(options.checkpoint).expanduser().is_dir()
    config, head, queries, side, unet_config, vae_config = _published_sizes(options) if known else _sizes(options)
    dtype, text_config = choose_dtype(options.dtype, torch.device(device)), config.get_text_config()
    with torch.device("meta"):
        language: Any = Qwen2_5_VLForConditionalGeneration(config)
        unet: Any = UNet2DConditionModel(**unet_config)
        autoencoder: Any = AutoencoderKL(**vae_config)
        reader = Reader(lambda: language.model.language_model, 0, 0, options.recompute)
        denoiser = Denoiser(head, queries, reader, options.train_queries).to(dtype)
    for module in (language, unet):
        nn.Module.to(module, dtype)  # diffusers' own `to` warns needlessly
    small_memory.quantize(language, options, qwen_vl.LAYERS, dtype, planned=True)
    small_memory.quantize(denoiser, options, {"generation": LAYERS}, dtype, planned=True)
    allow_recomputing(language)
    for module in (denoiser, language, unet, autoencoder):
        module.eval().requires_grad_(False)
    factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    width, height = (each or unet.config.sample_size * factor for each in options.size)

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, device="meta", dtype=dtype)

    def condition(count: int) -> list[Tensor | None]:
        if options.train_queries:
            return [torch.zeros(CAPTION, dtype=torch.long) for _ in range(count)]
        return [zeros(queries, head.context) for _ in range(count)]

    @torch.no_grad()
    def generate(count: int) -> None:
        """One guided step of the head, one of the decoder, and pixels."""
        rows = 2 * count
        denoiser.velocity(zeros(rows, head.channels, side, side), zeros(rows), zeros(rows, queries, head.context))
        noise = zeros(rows, unet.config.in_channels, height // factor, width // factor, dtype=unet.dtype)
        features = zeros(rows, side**2, head.channels, dtype=unet.dtype)
        added = {"text_embeds": features.mean(1), "time_ids": zeros(rows, 6, dtype=unet.dtype)}
        unet(noise, zeros(), features, added_cond_kwargs=added)
        autoencoder.decode(noise[:count].float())

    @torch.no_grad()
    def judge(count: int, tokens: int) -> None:
        """The language model's prefill of the questions and the first token; zeros stand for the vision tower's
        output."""
        image_input = ImageInput.within(*options.vision_pixels)
        columns, rows = (pixels // image_input.step for pixels in image_input.seen((width, height)))
        text = language.model.language_model
        found = text(
            inputs_embeds=zeros(count, rows * columns + QUESTION, head.context, dtype=text.dtype), use_cache=True
        )
        cached = 2 * text_config.num_key_value_heads * text_config.hidden_size // text_config.num_attention_heads
        cache = zeros(text_config.num_hidden_layers, count, tokens, cached, dtype=text.dtype)
        language.lm_head(found.last_hidden_state[:, -1])
        del cache

    language_size = size_of(language)
    return Outline(
        denoiser=denoiser,
        recipe=make_recipe(options),
        grid=(side, side, head.channels),
        condition=condition,
        parts={
            "generate": language_size + size_of(unet, autoencoder),
            "judge": language_size,
            "train": language_size if options.train_queries else 0,
        },
        generate=generate,
        judge=judge,
        note=f"Captions have {CAPTION} tokens, questions {QUESTION}, each about a separate image; left out are the "
        "feature tower, which is loaded between judging and training only, and the vision tower's activations."
        + (" Sizes are the adapter's own for the published checkpoint." if known else ""),
    )


Sizes = tuple[Qwen2_5_VLConfig, dit.Sizes, int, int, Mapping[str, Any], Mapping[str, Any]]
"""Language model, head, queries, rows (and columns) of the feature grid, UNet and autoencoder."""


def _published_sizes(options: Options) -> Sizes:
    config = PUBLISHED[options.checkpoint]
    head = dit.Sizes(config["hidden_size"], 1792, 1792, blocks=24, heads=28, kv_heads=28, feed_forward=4864)
    language = language_config(config, Path(options.checkpoint))
    return language, head, 64, eva.PRESETS["eva-clip-E-14-plus"].grid // 4, _UNET, _VAE


def _sizes(options: Options) -> Sizes:
    found = open_checkpoint(options.checkpoint, "meta")
    folder = decoder.find(options.decoder, found.directory)
    unet, autoencoder = (
        # Without the metadata of diffusers' configurations.
        {name: value for name, value in read_json(folder / part / "config.json").items() if not name.startswith("_")}
        for part in ("unet", "vae")
    )
    sizes = found.sizes
    return sizes.language, sizes.head, sizes.queries, grid_side(found, options), unet, autoencoder
