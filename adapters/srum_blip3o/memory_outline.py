"""BLIP3-o without its weights: every part on the meta device, and the peak memory of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig

from srum_blip3o import decoder, dit, eva
from srum_blip3o.checkpoint import grid_side, open_checkpoint
from srum_blip3o.dit import Denoiser
from srum_blip3o.model import LINEAR, make_recipe
from srum_blip3o.options import Options
from srum_blip3o.text_encoder import Reader, language_config, recomputing
from srum_core.models import qwen_vl, small_memory
from srum_core.models.hub import choose_dtype
from srum_core.models.memory_outline import OWN_SIZES, Outline, is_published, size_of
from srum_core.models.qwen_vl import ImageInput, meta_model, prefill, published_config
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


PUBLISHED = {
    "BLIP3o/BLIP3o-Model-8B": published_config(3584, 18944, 28, 28, 4, 151668, False, "blip3o_qwen"),
    "BLIP3o/BLIP3o-Model-4B": published_config(2048, 11008, 36, 16, 2, 151668, True, "blip3o_qwen"),
}
"""Configurations of hub ids, so that planning needs no download."""


def outline(options: Options, device: str) -> Outline:
    """Outline a local checkpoint, or a published one by its hub id, without the feature tower, which encodes before
    training. Raises CheckpointError."""
    published = is_published(options.checkpoint, PUBLISHED)
    config, head, queries, side, unet_config, vae_config = _sizes(options, published)
    dtype = choose_dtype(options.dtype, torch.device(device))
    language = recomputing(meta_model(config, dtype))
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**unet_config)
        autoencoder: Any = AutoencoderKL(**vae_config)
        reader = Reader(lambda: language.model.language_model, 0, 0, options.recompute)
        denoiser = Denoiser(head, queries, reader, options.train_queries).to(dtype)
    nn.Module.to(unet, dtype)  # without the needless warning of diffusers' own `to`
    small_memory.quantize(language, options, qwen_vl.LAYERS, dtype, planned=True)
    small_memory.quantize(denoiser, options, LINEAR, dtype, planned=True)
    for module in (denoiser, unet, autoencoder):
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
    def read(count: int) -> None:
        """Read the captions, and the empty one."""
        reader.states(denoiser.latent_queries, [[0] * CAPTION] * (count + 1))

    @torch.no_grad()
    def run_head(count: int) -> None:
        """Run one guided step of the head."""
        rows = 2 * count
        denoiser.velocity(zeros(rows, head.channels, side, side), zeros(rows), zeros(rows, queries, head.context))

    @torch.no_grad()
    def decode(count: int) -> None:
        """One guided step of the decoder, and pixels."""
        rows = 2 * count
        noise = zeros(rows, unet.config.in_channels, height // factor, width // factor, dtype=unet.dtype)
        features = zeros(rows, side**2, head.channels, dtype=unet.dtype)
        added = {"text_embeds": features.mean(1), "time_ids": zeros(rows, 6, dtype=unet.dtype)}
        unet(noise, zeros(), features, added_cond_kwargs=added)
        autoencoder.decode(noise[:count].float())

    def generate(count: int) -> None:
        run_head(count)
        decode(count)

    def judge(count: int, tokens: int) -> None:
        prefill(language, ImageInput.within(*options.vision_pixels).tokens((width, height)) + QUESTION, count, tokens)

    reads, decodes, own = size_of(language), size_of(unet, autoencoder), size_of(denoiser)
    parts = {"generate": reads + decodes, "judge": reads, "train": reads if options.train_queries else 0}
    moved = options.offload == "cpu"
    return Outline(
        denoiser=denoiser,
        recipe=make_recipe(options),
        grid=(side, side, head.channels),
        condition=condition,
        parts=dict.fromkeys(parts, reads + decodes) if options.offload == "none" else parts,
        elsewhere={"judge": own} if moved else {},
        phases=[(reads, read), (own, run_head), (decodes, decode)] if moved else (),
        generate=generate,
        judge=judge,
        note=f"Captions have {CAPTION} tokens, questions {QUESTION}, each about a separate image; left out are the "
        "feature tower, which is loaded between judging and training only, and the vision tower's activations."
        + OWN_SIZES
        * published,
    )


Sizes = tuple[Qwen2_5_VLConfig, dit.Sizes, int, int, Mapping[str, Any], Mapping[str, Any]]
"""Language model, head, queries, rows (and columns) of the feature grid, UNet and autoencoder."""


def _sizes(options: Options, published: bool) -> Sizes:
    if published:
        config = PUBLISHED[options.checkpoint]
        head = dit.Sizes(config["hidden_size"], 1792, 1792, blocks=24, heads=28, kv_heads=28, feed_forward=4864)
        language = language_config(config, Path(options.checkpoint))
        return language, head, 64, eva.PRESETS["eva-clip-E-14-plus"].grid // 4, _UNET, _VAE
    checkpoint = open_checkpoint(options.checkpoint, "meta")
    folder = decoder.find(options.decoder, checkpoint.directory)
    unet, autoencoder = (
        # Names with an underscore are metadata of diffusers.
        {name: value for name, value in read_json(folder / part / "config.json").items() if not name.startswith("_")}
        for part in ("unet", "vae")
    )
    sizes = checkpoint.sizes
    return sizes.language, sizes.head, sizes.queries, grid_side(checkpoint, options), unet, autoencoder
