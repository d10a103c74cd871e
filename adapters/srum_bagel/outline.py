"""BAGEL without its weights: every part on the meta device, and what takes the most memory in each stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn

from srum_bagel import checkpoint
from srum_bagel.answering import next_logits
from srum_bagel.autoencoder import Autoencoder, AutoencoderSizes, read_sizes, unpatchify
from srum_bagel.chat import Chat
from srum_bagel.denoiser import BagelDenoiser
from srum_bagel.images import latent_grid, size_rule
from srum_bagel.options import Options
from srum_bagel.place import find
from srum_bagel.sampling import Contexts, sample
from srum_bagel.vision import Eye
from srum_core.files import read_text
from srum_core.flow import Recipe
from srum_core.models.hub import choose_device, choose_dtype
from srum_core.models.memory_outline import Outline

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


@frozen
class Parts:
    """The model on the meta device."""

    options: Options
    denoiser: BagelDenoiser
    eye: Eye
    autoencoder: Autoencoder
    stride: int
    """Pixels of a latent cell's side."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of a drawn picture."""
        width, height = (side or min(1024, self.denoiser.side * self.stride) for side in self.options.size)
        return width, height

    @property
    def grid(self) -> tuple[int, int, int]:
        width, height = self.size
        return height // self.stride, width // self.stride, self.denoiser.vae2llm.in_features

    def texts(self, count: int, tokens: int) -> list[Tensor]:
        return [torch.zeros(tokens, dtype=torch.long, device="meta") for _ in range(count)]

    @torch.no_grad()
    def generate(self, count: int) -> None:
        """The last of the contexts, one guided step, and decoding."""
        length = CAPTION + (self.options.think_tokens if self.options.think else 0)
        full, nothing = self.denoiser.context(count), self.denoiser.context(count)
        self.denoiser.read_text(full, self.texts(count, length))
        noise = [torch.zeros(self.grid, device="meta") for _ in range(count)]
        drawing = attrs.evolve(self.options.drawing, steps=2)
        latents = torch.stack(sample(self.denoiser, Contexts(full, nothing, full), noise, drawing))
        patch = self.stride // self.autoencoder.sizes.factor
        self.autoencoder.decode(unpatchify(latents, patch))

    @torch.no_grad()
    def judge(self, count: int, tokens: int) -> None:
        """As many pictures as questions are looked at and read, and the first word is said."""
        drawn = size_rule(self.options.drawing_sides, self.stride, self.denoiser.side)
        seen = size_rule(self.options.vision_sides, self.eye.patch, self.eye.side)
        width, height = seen(*drawn(*self.size))
        pictures = self.eye([torch.zeros(3, height, width, device="meta") for _ in range(count)])
        context = self.denoiser.context(count)
        self.denoiser.read_picture(context, pictures)
        self.denoiser.read_text(context, self.texts(count, QUESTION))
        next_logits(self.denoiser, context.select(range(count)).reserve(tokens + 1), [0] * count)


def outline(options: Options, device: str, recipe: Callable[[int], Recipe]) -> Outline:
    """For a checkpoint here, or a published one by its hub id. Raises CheckpointError."""
    parts = build(options, choose_dtype(options.dtype, torch.device(device)))
    beside = _bytes(parts.eye) + _bytes(parts.autoencoder)
    known = options.checkpoint in PUBLISHED and not Path(options.checkpoint).expanduser().is_dir()
    return Outline(
        denoiser=parts.denoiser,
        recipe=recipe(len(parts.denoiser.language_model.model.layers)),
        grid=parts.grid,
        condition=lambda count: parts.texts(count, CAPTION),
        parts=dict.fromkeys(("generate", "judge", "train"), beside),
        generate=parts.generate,
        judge=parts.judge,
        note=f"Captions have {CAPTION} tokens, questions {QUESTION}; every question looks at a picture of its own."
        + (" Sizes are those that the adapter knows of the published checkpoint." if known else ""),
    )


def preflight(options: Options) -> None:
    """Look at files and headers only. Raises CheckpointError for weights that are incomplete or too large for this
    machine, and for a size that they cannot draw; ConfigError for a template that cannot be read."""
    if options.think_template:
        read_text(Path(options.think_template))
    sizes, decodes = _sizes(options)
    latent_grid(options.size, _patch(sizes, decodes) * decodes.factor, sizes.latent_side)
    Chat.load(find(options.checkpoint, choose_device(options.device), options.device))


def build(options: Options, dtype: torch.dtype) -> Parts:
    sizes, decodes = _sizes(options)
    with torch.device("meta"):
        denoiser = BagelDenoiser(sizes.language, sizes.cell, sizes.latent_side, (0, 0), sizes.theta).to(dtype)
        eye = Eye(sizes.vision, sizes.language.hidden_size, sizes.vision_side).to(dtype)
        autoencoder = Autoencoder(decodes, options.latent_scale, options.latent_shift)
    for module in (denoiser, eye, autoencoder):
        module.eval().requires_grad_(False)
    return Parts(options, denoiser, eye, autoencoder, _patch(sizes, decodes) * decodes.factor)


def _patch(sizes: checkpoint.Sizes, decodes: AutoencoderSizes) -> int:
    return round((sizes.cell / decodes.channels) ** 0.5)


def _sizes(options: Options) -> tuple[checkpoint.Sizes, AutoencoderSizes]:
    if options.checkpoint in PUBLISHED and not Path(options.checkpoint).expanduser().is_dir():
        speaks, looks, rest = PUBLISHED[options.checkpoint]
        return checkpoint.build_sizes(speaks, looks, **rest), FLUX
    directory = find(options.checkpoint, torch.device("meta"), "meta")  # whatever its size: nothing is loaded
    shapes = checkpoint.open_part(directory, checkpoint.WEIGHTS).shapes
    return checkpoint.read_sizes(directory, shapes), read_sizes(checkpoint.open_part(directory, ("ae",)).shapes)


def _bytes(module: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in module.state_dict().values())
