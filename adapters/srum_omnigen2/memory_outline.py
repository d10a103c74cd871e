"""OmniGen2 without its weights: every part on the meta device, and the peak memory of each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from srum_core.models import qwen_vl, small_memory
from srum_core.models.hub import choose_dtype
from srum_core.models.memory_outline import OWN_SIZES, Outline, is_published, size_of
from srum_core.models.qwen_vl import ImageInput, meta_model, prefill, published_config
from srum_core.models.tensors import unpatchify
from srum_omnigen2.checkpoint import open_checkpoint, read_configs
from srum_omnigen2.denoiser import Denoiser
from srum_omnigen2.model import LAYERS, image_size, make_recipe
from srum_omnigen2.options import Options
from srum_omnigen2.sampling import READ_AT_ONCE, decode, sample

CAPTION, QUESTION = 80, 500
"""Tokens of a typical caption with its template, and of a judge's question with its rubric."""
_TRANSFORMER = {
    "patch_size": 2, "in_channels": 16, "out_channels": None, "hidden_size": 2520, "num_layers": 32,
    "num_refiner_layers": 2, "num_attention_heads": 21, "num_kv_heads": 7, "multiple_of": 256,
    "ffn_dim_multiplier": None, "norm_eps": 1e-5, "axes_dim_rope": [40, 40, 40], "text_feat_dim": 2048,
    "timestep_scale": 1000.0,
}  # fmt: skip
_MLLM = published_config(2048, 11008, 36, 16, 2, 151936, True, "qwen2_5_vl")
_VAE = {
    "block_out_channels": [128, 256, 512, 512], "latent_channels": 16, "layers_per_block": 2, "norm_num_groups": 32,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
PUBLISHED: Mapping[str, tuple[dict[str, Any], ...]] = {
    "OmniGen2/OmniGen2": (_TRANSFORMER, _MLLM, _VAE, {"dynamic_time_shift": True}),
}
"""Configurations of hub ids, so that planning needs no download."""
_VISION_PIXELS = (3136, 12_845_056)
"""Fewest and most pixels of the published image processor."""


def outline(options: Options, device: str) -> Outline:
    """Outline a local checkpoint, or a published one by its hub id. Raises CheckpointError."""
    published = is_published(options.checkpoint, PUBLISHED)
    if published:
        configs = read_configs(Path(options.checkpoint), *PUBLISHED[options.checkpoint])
        image_input = ImageInput.within(*(options.vision_pixels if any(options.vision_pixels) else _VISION_PIXELS))
    else:
        checkpoint = open_checkpoint(options, "meta")  # any size: nothing is loaded
        configs, image_input = checkpoint.configs, checkpoint.image_input(options.vision_pixels)
    dtype, width = choose_dtype(options.dtype, torch.device(device)), configs.transformer.text_feat_dim
    language, autoencoder = meta_model(configs.language, dtype), configs.autoencoder()
    with torch.device("meta"):
        denoiser = Denoiser(configs.transformer).to(dtype)
    small_memory.quantize(language, options, qwen_vl.LAYERS, dtype, planned=True)
    small_memory.quantize(denoiser, options, {"generation": LAYERS}, dtype, planned=True)
    for module in (denoiser, autoencoder):
        module.eval().requires_grad_(False)
    size, patch = image_size(options, configs), configs.transformer.patch_size
    grid = (size[1] // configs.stride, size[0] // configs.stride, configs.transformer.cell)

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, device="meta", dtype=dtype)

    def texts(count: int) -> list[Tensor]:
        return [zeros(CAPTION, width, dtype=dtype) for _ in range(count)]

    @torch.no_grad()
    def read_captions(count: int) -> None:
        """Read the prompts and the negative one."""
        rows = min(count + 1, READ_AT_ONCE)
        embeds = zeros(rows, CAPTION, width, dtype=dtype)
        language.model.language_model(inputs_embeds=embeds, use_cache=False)

    @torch.no_grad()
    def step(count: int) -> list[Tensor]:
        """Run one guided step of the transformer."""
        sampling = attrs.evolve(options.sampling, steps=1)
        noise = [zeros(*grid) for _ in range(count)]
        return sample(denoiser, texts(count), texts(1)[0], noise, sampling, shift=1.0)

    @torch.no_grad()
    def to_pixels(count: int, latents: Sequence[Tensor] = ()) -> None:
        clean = latents or [zeros(*grid) for _ in range(count)]
        decode(autoencoder, unpatchify(torch.stack(list(clean)), patch))

    def generate(count: int) -> None:
        to_pixels(count, step(count))

    def judge(count: int, tokens: int) -> None:
        prefill(language, image_input.tokens(size) + QUESTION, count, tokens)

    reads, decodes, own = size_of(language), size_of(autoencoder), size_of(denoiser)
    parts = {"generate": reads + decodes, "judge": reads, "train": 0}
    moved = options.offload == "cpu"
    return Outline(
        denoiser=denoiser,
        recipe=make_recipe(options, configs),
        grid=grid,
        condition=texts,
        parts=dict.fromkeys(parts, reads + decodes) if options.offload == "none" else parts,
        elsewhere={"judge": own} if moved else {},
        phases=[(reads, read_captions), (own, step), (decodes, to_pixels)] if moved else (),
        generate=generate,
        judge=judge,
        note=f"Captions have {CAPTION} tokens, questions {QUESTION}, each about a separate image; the activations of "
        "the vision tower and the encoder are left out." + OWN_SIZES * published,
    )
