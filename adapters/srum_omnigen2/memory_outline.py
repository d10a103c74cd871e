"""OmniGen2 without its weights: every part on the meta device, and the peak memory of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from srum_core.models import qwen_vl, small_memory
from srum_core.models.hub import choose_dtype
from srum_core.models.memory_outline import Outline, size_of
from srum_core.models.qwen_vl import ImageInput
from srum_core.models.tensors import unpatchify
from srum_omnigen2.autoencoder import decode
from srum_omnigen2.checkpoint import Configs, open_checkpoint, read_configs
from srum_omnigen2.denoiser import Denoiser
from srum_omnigen2.model import LAYERS, image_size, make_recipe
from srum_omnigen2.options import Options
from srum_omnigen2.sampling import sample

CAPTION, QUESTION = 80, 500
"""Tokens of a typical caption with its template, and of a judge's question with its rubric."""
_TRANSFORMER = {
    "patch_size": 2, "in_channels": 16, "out_channels": None, "hidden_size": 2520, "num_layers": 32,
    "num_refiner_layers": 2, "num_attention_heads": 21, "num_kv_heads": 7, "multiple_of": 256,
    "ffn_dim_multiplier": None, "norm_eps": 1e-5, "axes_dim_rope": [40, 40, 40], "text_feat_dim": 2048,
    "timestep_scale": 1000.0,
}  # fmt: skip
_MLLM = {
    "model_type": "qwen2_5_vl", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 128000,
    "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
    "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
                      "out_hidden_size": 2048, "patch_size": 14, "spatial_merge_size": 2, "window_size": 112,
                      "fullatt_block_indexes": [7, 15, 23, 31], "model_type": "qwen2_5_vl"},
}  # fmt: skip
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
"""Of the published image processor."""


def outline(options: Options, device: str) -> Outline:
    """For a local checkpoint, or a published one by its hub id. Raises CheckpointError."""
    known = options.checkpoint in PUBLISHED and not Path(options.checkpoint).expanduser().is_dir()
    if known:
        configs = read_configs(Path(options.checkpoint), *PUBLISHED[options.checkpoint])
        image_input = ImageInput.within(*(options.vision_pixels if any(options.vision_pixels) else _VISION_PIXELS))
    else:
        found = open_checkpoint(options, "meta")  # any size: nothing is loaded
        configs, image_input = found.configs, found.image_input(options.vision_pixels)
    return _outline(options, device, configs, image_input, known)


def _outline(options: Options, device: str, configs: Configs, image_input: ImageInput, known: bool) -> Outline:
    dtype, text_config = choose_dtype(options.dtype, torch.device(device)), configs.language.get_text_config()
    with torch.device("meta"):
        language: Any = Qwen2_5_VLForConditionalGeneration(configs.language)
        denoiser = Denoiser(configs.transformer).to(dtype)
    nn.Module.to(language, dtype)
    small_memory.quantize(language, options, qwen_vl.LAYERS, dtype, planned=True)
    small_memory.quantize(denoiser, options, {"generation": LAYERS}, dtype, planned=True)
    autoencoder = configs.autoencoder()
    modules: list[nn.Module] = [denoiser, language, autoencoder]
    for module in modules:
        module.eval().requires_grad_(False)
    size, patch = image_size(options, configs), configs.transformer.patch_size
    grid = (size[1] // configs.stride, size[0] // configs.stride, configs.transformer.cell)

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, device="meta", dtype=dtype)

    def texts(count: int) -> list[Tensor]:
        return [zeros(CAPTION, text_config.hidden_size, dtype=dtype) for _ in range(count)]

    @torch.no_grad()
    def generate(count: int) -> None:
        """One guided step of the transformer, and the decoder."""
        sampling = attrs.evolve(options.sampling, steps=1)
        noise = [zeros(*grid) for _ in range(count)]
        clean = sample(denoiser, texts(count), texts(1)[0], noise, sampling, shift=1.0)
        decode(autoencoder, unpatchify(torch.stack(clean), patch))

    @torch.no_grad()
    def judge(count: int, tokens: int) -> None:
        """The language model's prefill of the questions and the first token; zeros stand for the vision tower's
        output."""
        columns, rows = (pixels // image_input.step for pixels in image_input.seen(size))
        text = language.model.language_model
        asked = zeros(count, rows * columns + QUESTION, text_config.hidden_size, dtype=dtype)
        found = text(inputs_embeds=asked, use_cache=True)
        cached = 2 * text_config.num_key_value_heads * text_config.hidden_size // text_config.num_attention_heads
        cache = zeros(text_config.num_hidden_layers, count, tokens, cached, dtype=dtype)
        language.lm_head(found.last_hidden_state[:, -1])
        del cache

    language_size = size_of(language)
    return Outline(
        denoiser=denoiser,
        recipe=make_recipe(options, configs),
        grid=grid,
        condition=texts,
        parts={"generate": language_size + size_of(autoencoder), "judge": language_size, "train": 0},
        generate=generate,
        judge=judge,
        note=f"Captions have {CAPTION} tokens, questions {QUESTION}, each about a separate image; the activations of "
        "the vision tower and the encoder are left out."
        + (" Sizes are the adapter's own for the published checkpoint." if known else ""),
    )
