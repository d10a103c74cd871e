"""BAGEL without its weights: every part on the meta device, and what takes the most memory in each stage."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from srum_bagel.attention import Context
from srum_bagel.checkpoint import CHECKPOINTS, WEIGHTS, Sizes, build_sizes, read_sizes
from srum_bagel.model import EXPERTS, Bagel, unquantised
from srum_bagel.options import Options
from srum_bagel.sampling import Contexts, next_logits, sample
from srum_bagel.vae import AutoencoderSizes, autoencoder_sizes
from srum_core.models import small_memory
from srum_core.models.hub import choose_dtype
from srum_core.models.memory_outline import OWN_SIZES, Outline, is_published, size_of
from srum_core.models.offload import saved
from srum_core.models.weights import Stored

CAPTION, QUESTION = 80, 500
"""Tokens of a usual caption, and of a judge's question with its rubric."""
_SPEAKS = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
}  # fmt: skip
_LOOKS = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "num_channels": 3, "patch_size": 14, "image_size": 980,
}  # fmt: skip
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, int]]] = {
    "ByteDance-Seed/BAGEL-7B-MoT": (_SPEAKS, _LOOKS, {"cell": 64, "latent_side": 64, "vision_side": 70}),
}
"""Sizes behind hub ids, so that nothing has to be downloaded to plan for them."""
FLUX = AutoencoderSizes(widths=(128, 256, 512, 512), blocks=2, channels=16)


def outline(options: Options, device: str) -> Outline:
    """For a checkpoint here, or a published one by its hub id. Raises CheckpointError."""
    model = object.__new__(Bagel)
    model.build(options, *read_all_sizes(options))
    dtype = choose_dtype(options.dtype, torch.device(device))
    for module in (model.denoiser.to(dtype), model.eye.to(dtype), model.autoencoder):
        module.eval().requires_grad_(False)
    small_memory.quantize(model.denoiser, options, EXPERTS, dtype, planned=True)
    denoiser, (rows, columns) = model.denoiser, model.grid(options.size)
    grid = (rows, columns, denoiser.vae2llm.in_features)

    def texts(count: int, tokens: int) -> list[Tensor]:
        return [torch.zeros(tokens, dtype=torch.long, device="meta") for _ in range(count)]

    @torch.no_grad()
    def generate(count: int) -> None:
        """The last of the contexts, one guided step, and decoding."""
        full, nothing = denoiser.context(count), denoiser.context(count)
        denoiser.read_text(full, texts(count, CAPTION + (options.think_tokens if options.think else 0)))
        noise = [torch.zeros(grid, device="meta") for _ in range(count)]
        sampling = attrs.evolve(options.sampling, steps=2)
        model.decode(sample(denoiser, Contexts(full, nothing, full), noise, sampling))

    @torch.no_grad()
    def judge(count: int, tokens: int) -> None:
        """As many images as questions are encoded, the first token is sampled, and a quarter of the answers ends."""
        size = (columns * model.stride, rows * model.stride)
        width, height = model.seen_size(*model.generated_size(*size))
        context = denoiser.context(count)
        denoiser.read_image(context, model.eye([torch.zeros(3, height, width, device="meta") for _ in range(count)]))
        context = context.select(range(count))
        denoiser.read_text(context, texts(count, QUESTION))
        context = Context.stack([context], tokens + 1)
        next_logits(denoiser, context, [0] * count)
        context.select(range(3 * count // 4))

    eye, decodes = size_of(model.eye), size_of(model.autoencoder)
    parts = dict.fromkeys(("generate", "judge", "train"), eye + decodes)
    elsewhere = {}
    if options.offload == "cpu":
        layers = unquantised(denoiser)
        blocks = list(denoiser.language_model.model.layers)
        reads = saved(blocks, layers["understanding"])
        makes = sum(size_of(each) for each in layers["generation"])
        parts = {"generate": decodes, "judge": eye, "train": 0}
        elsewhere = {"generate": reads, "judge": makes, "train": reads}

    return Outline(
        denoiser=denoiser,
        recipe=model.recipe,
        grid=grid,
        condition=lambda count: texts(count, CAPTION),
        parts=parts,
        elsewhere=elsewhere,
        generate=generate,
        judge=judge,
        note=f"Captions have {CAPTION} tokens, questions {QUESTION}; every question has its own image."
        + OWN_SIZES * is_published(options.checkpoint, PUBLISHED),
    )


def read_all_sizes(options: Options) -> tuple[Sizes, AutoencoderSizes]:
    """Return the sizes of the model and of its autoencoder, reading no weights. Raises CheckpointError."""
    if is_published(options.checkpoint, PUBLISHED):
        language, vision, rest = PUBLISHED[options.checkpoint]
        return build_sizes(language, vision, **rest), FLUX
    directory = CHECKPOINTS.find(options.checkpoint, "meta")  # whatever its size: nothing is loaded
    shapes, decodes = (Stored.open(directory, stems, "BAGEL").shapes for stems in (WEIGHTS, ("ae",)))
    return read_sizes(directory, shapes), autoencoder_sizes(decodes)
