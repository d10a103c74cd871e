"""Show-o2 without its weights: every part on the meta device, and the peak memory of each stage."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import SiglipVisionConfig

from srum_core.models import small_memory
from srum_core.models.hub import choose_dtype
from srum_core.models.memory_outline import OWN_SIZES, Outline, is_published, size_of
from srum_showo2.autoencoder import Autoencoder
from srum_showo2.checkpoint import ATTENTION, PUBLISHED_SIGLIP, head_config, language_config, open_checkpoint, vae_width
from srum_showo2.denoiser import Sizes
from srum_showo2.model import LAYERS, ShowO2, only_for
from srum_showo2.options import Options
from srum_showo2.sampling import sample
from srum_showo2.understanding import View, ask

CAPTION, QUESTION, FRAME = 80, 500, 24
"""Tokens of a typical caption, of a judge's question with its rubric, and before an image in a question."""
ROWS = 151_669
"""Rows of the embedding: Qwen2.5's tokenizer and Show-o2's own four."""
_SMALL = {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2}
_LARGE = {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4}
PUBLISHED = {
    "showlab/show-o2-1.5B": _SMALL,
    "showlab/show-o2-1.5B-HQ": _SMALL,
    "showlab/show-o2-7B": _LARGE,
}
"""Language models of hub ids, so that planning needs no download; all else is the same."""


def outline(options: Options, device: str) -> Outline:
    """Outline a local checkpoint, or a published one by its hub id. Raises CheckpointError."""
    published = is_published(options.checkpoint, PUBLISHED)
    sizes, width = (published_sizes(options.checkpoint), 96) if published else _sizes(options)
    with torch.device("meta"):
        autoencoder = Autoencoder(width, sizes.channels)
    model = object.__new__(ShowO2)
    model.build(options, sizes, autoencoder)
    dtype = choose_dtype(options.dtype, torch.device(device))
    denoiser = model.denoiser.to(dtype)
    small_memory.quantize(denoiser, options, LAYERS, dtype, planned=True)
    denoiser.tie()
    for module in (denoiser, autoencoder):
        module.eval().requires_grad_(False)
    grid = (*model.grid, sizes.cell)

    def zeros(count: int, *shape: int, **kind: Any) -> list[Tensor]:
        return [torch.zeros(shape, device="meta", **kind) for _ in range(count)]

    def captions(count: int) -> list[Tensor]:
        return zeros(count, CAPTION, dtype=torch.long)

    @torch.no_grad()
    def generate(count: int) -> None:
        """Encode the captions, take one guided step, and decode."""
        once = attrs.evolve(options.sampling, steps=2)
        model.decode(sample(denoiser, captions(count), zeros(count, *grid), once))

    @torch.no_grad()
    def judge(count: int, tokens: int) -> None:
        """Encode as many images as questions, and sample the first token."""
        side = model.vision_size // model.stride
        view = View.of(denoiser, ([0] * FRAME, 0), zeros(count, side, side, sizes.cell))
        ask(denoiser, view, range(count), [range(QUESTION)] * count)
        config = sizes.language
        cached = 2 * (config.num_key_value_heads or 1) * config.hidden_size // config.num_attention_heads
        cache = zeros(config.num_hidden_layers, count, tokens, cached, dtype=denoiser.showo.dtype)
        denoiser.showo.lm_head(torch.zeros(count, config.hidden_size, device="meta", dtype=denoiser.showo.dtype))
        del cache

    decodes = size_of(autoencoder)
    parts, elsewhere = dict.fromkeys(("generate", "judge", "train"), decodes), {}
    if options.offload == "cpu":
        apart = only_for(denoiser)
        head, matrix = (
            sum(small_memory.size(each.parameters(recurse=False)) for each in apart[name])
            for name in ("head", "output matrix")
        )
        parts["train"] = 0
        elsewhere = {"generate": matrix, "judge": head, "train": matrix}
    return Outline(
        denoiser=denoiser,
        recipe=model.recipe,
        grid=grid,
        condition=captions,
        parts=parts,
        elsewhere=elsewhere,
        generate=generate,
        judge=judge,
        note=f"Captions have {CAPTION} tokens, questions {QUESTION}; every question is about a separate image."
        + OWN_SIZES * published,
    )


def published_sizes(name: str) -> Sizes:
    language = {**PUBLISHED[name], "num_hidden_layers": 28, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
    return Sizes(
        language=language_config(language, ROWS),
        semantic=SiglipVisionConfig(
            hidden_size=1152, intermediate_size=4304, num_hidden_layers=26, **ATTENTION, **PUBLISHED_SIGLIP,
        ),
        head=head_config(width=2048, layers=10, heads=32, kv_heads=8, head_width=64, mlp=8192),
        channels=16,
        patch=2,
        side=27,
        tied=PUBLISHED[name] is _SMALL,
    )  # fmt: skip


def _sizes(options: Options) -> tuple[Sizes, int]:
    """Read the sizes of a local checkpoint, and the width of its autoencoder."""
    checkpoint = open_checkpoint(attrs.evolve(options, device="meta"))  # any size: nothing is loaded
    return checkpoint.sizes, vae_width(options, checkpoint.stored.directory)
