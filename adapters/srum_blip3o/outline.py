"""BLIP3-o without its weights: every part on the meta device, and what takes the most memory in each stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from srum_blip3o import checkpoint, decoder, eva, head, language, tower
from srum_blip3o.denoiser import Denoiser, Told
from srum_blip3o.options import Options
from srum_blip3o.reader import Reader
from srum_core.flow import Recipe
from srum_core.models.hub import choose_dtype
from srum_core.models.memory_outline import Outline
from srum_core.models.weights import read_json

CAPTION, QUESTION = 100, 500
"""Tokens of a usual caption with what is said around it, and of a judge's question with its rubric."""
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
"""Configurations behind hub ids, so that nothing has to be downloaded to plan for them."""


@frozen
class Sizes:
    """What the parts are built from."""

    language: Qwen2_5_VLConfig
    head: head.Sizes
    queries: int
    side: int
    """Rows and columns of the feature grid."""
    unet: Mapping[str, Any]
    autoencoder: Mapping[str, Any]


@frozen
class Parts:
    """The model on the meta device; the feature tower, which encodes before training, is left out."""

    options: Options
    sizes: Sizes
    denoiser: Denoiser
    language: Any
    unet: Any
    autoencoder: Any

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of a drawn picture."""
        whole = self.unet.config.sample_size * self.factor
        return self.options.size[0] or whole, self.options.size[1] or whole

    @property
    def factor(self) -> int:
        return 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    def condition(self, count: int) -> list[Told]:
        if self.options.train_queries:
            return [torch.zeros(CAPTION, dtype=torch.long) for _ in range(count)]
        return [torch.zeros(self.sizes.queries, self.sizes.head.context, device="meta") for _ in range(count)]

    @torch.no_grad()
    def generate(self, count: int) -> None:
        """One guided step of the head, one of the decoder, and pixels."""
        (width, height), made = self.size, self.sizes.head
        both = torch.zeros(2 * count, self.sizes.queries, made.context, device="meta")
        x = torch.zeros(2 * count, made.channels, self.sizes.side, self.sizes.side, device="meta")
        self.denoiser.velocity(x, torch.zeros(2 * count, device="meta"), both)
        dtype, rows, columns = self.unet.dtype, height // self.factor, width // self.factor
        noise = torch.zeros(2 * count, self.unet.config.in_channels, rows, columns, device="meta", dtype=dtype)
        told = torch.zeros(2 * count, self.sizes.side**2, made.channels, device="meta", dtype=dtype)
        added = {"text_embeds": told.mean(1), "time_ids": torch.zeros(2 * count, 6, device="meta", dtype=dtype)}
        self.unet(noise, torch.zeros((), device="meta"), told, added_cond_kwargs=added)
        self.autoencoder.decode(noise[:count].float())

    @torch.no_grad()
    def judge(self, count: int, tokens: int) -> None:
        """The language model's reading of the questions and the first word; patches of the pictures stand for what the
        tower that looks makes of them."""
        width, height = language.Eyes(*self.options.vision_pixels).seen(self.size)
        seen = (width // (language.PATCH * language.MERGE)) * (height // (language.PATCH * language.MERGE))
        text = self.language.model.language_model
        embeds = torch.zeros(count, seen + QUESTION, self.sizes.head.context, device="meta", dtype=text.dtype)
        found = text(inputs_embeds=embeds, use_cache=True)
        config = self.sizes.language.get_text_config()
        said = torch.zeros(config.num_hidden_layers, count, tokens, self._cached(), device="meta", dtype=text.dtype)
        self.language.lm_head(found.last_hidden_state[:, -1])
        del said

    def _cached(self) -> int:
        """Numbers a token and layer, keys and values."""
        config = self.sizes.language.get_text_config()
        return 2 * config.num_key_value_heads * config.hidden_size // config.num_attention_heads


def outline(options: Options, device: str, recipe: Recipe) -> Outline:
    """For a checkpoint here, or a published one by its hub id. Raises CheckpointError."""
    dtype = choose_dtype(options.dtype, torch.device(device))
    sizes, known = _sizes(options)
    with torch.device("meta"):
        reads: Any = Qwen2_5_VLForConditionalGeneration(sizes.language)
        unet: Any = UNet2DConditionModel(**sizes.unet)
        autoencoder: Any = AutoencoderKL(**sizes.autoencoder)
        reader = Reader(lambda: reads.model.language_model, 0, 0, options.recompute)
        denoiser = Denoiser(sizes.head, sizes.queries, reader, options.train_queries).to(dtype)
    for module in (reads, unet):
        nn.Module.to(module, dtype)  # diffusers' own `to` warns of nothing
    language.allow_recomputing(reads)
    for module in (denoiser, reads, unet, autoencoder):
        module.eval().requires_grad_(False)
    parts = Parts(options, sizes, denoiser, reads, unet, autoencoder)
    says = _bytes(reads)
    return Outline(
        denoiser=denoiser,
        recipe=recipe,
        grid=(sizes.side, sizes.side, sizes.head.channels),
        condition=parts.condition,
        parts={
            "generate": says + _bytes(unet) + _bytes(autoencoder),
            "judge": says,
            "train": says if options.train_queries else 0,
        },
        generate=parts.generate,
        judge=parts.judge,
        note=f"Captions have {CAPTION} tokens, questions {QUESTION}, each about a picture of its own; left out are the "
        "feature tower, which is there between judging and training only, and what passes in the vision tower."
        + (" Sizes are those that the adapter knows of the published checkpoint." if known else ""),
    )


def _sizes(options: Options) -> tuple[Sizes, bool]:
    """And whether they are those known of a published checkpoint."""
    if options.checkpoint in PUBLISHED and not Path(options.checkpoint).expanduser().is_dir():
        config = PUBLISHED[options.checkpoint]
        made = head.Sizes(config["hidden_size"], 1792, 1792, blocks=24, heads=28, kv_heads=28, feed_forward=4864)
        speaks = checkpoint.language_config(config, Path(options.checkpoint))
        return Sizes(
            speaks, made, queries=64, side=eva.PRESETS["eva-clip-E-14-plus"].grid // 4, unet=_UNET, autoencoder=_VAE
        ), True
    found = checkpoint.open_checkpoint(options.checkpoint, torch.device("meta"), "meta")
    folder = decoder.find(options.decoder, found.directory)
    unet, autoencoder = (_own(read_json(folder / part / "config.json")) for part in ("unet", "vae"))
    side = tower.grid_side(found, options)
    return Sizes(found.sizes.language, found.sizes.head, found.sizes.queries, side, unet, autoencoder), False


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of diffusers without what it says about itself."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _bytes(module: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in module.parameters())
