"""The diffusion head: diffusers' Lumina NextDiT over feature tokens, with the projection that the official model has in
front of it. Its configuration is stored nowhere; every size is read from the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from attrs import frozen
from diffusers import LuminaNextDiT2DModel
from diffusers.models.embeddings import PixArtAlphaTextProjection, get_2d_rotary_pos_embed_lumina
from torch import Tensor


@frozen
class Sizes:
    """What a head is built from."""

    context: int
    """Width of the condition: the language model's."""
    width: int
    channels: int
    blocks: int
    heads: int
    kv_heads: int
    feed_forward: int
    """4864 or 7168 in the published sizes, by the library that the training used."""


def read_sizes(shapes: Mapping[str, Sequence[int]]) -> Sizes:
    """From the head's own names and shapes. A tensor that is missing shows in the comparison with `shapes`."""
    width, channels = shapes["patch_embedder.proj.weight"]
    heads = shapes["layers.0.gate"][0]
    keys = shapes.get("layers.0.attn1.to_k.weight", (width,))[0]
    numbers = {int(found[1]) for name in shapes if (found := re.match(r"layers\.(\d+)\.", name))}
    return Sizes(
        context=shapes.get("caption_projection.linear_1.weight", (width, width))[1],
        width=width,
        channels=channels,
        blocks=len(numbers),  # gaps show in the comparison too
        heads=heads,
        kv_heads=keys * heads // width,
        feed_forward=shapes.get("layers.0.feed_forward.linear_1.weight", (width,))[0],
    )


def build(sizes: Sizes) -> Any:
    """The head with random weights (or none, under torch's meta device), all names as stored."""
    inner = int(4 * 2 * sizes.width / 3)
    model: Any = LuminaNextDiT2DModel(
        sample_size=1,  # not used by the model
        patch_size=1,
        in_channels=sizes.channels,
        hidden_size=sizes.width,
        num_layers=sizes.blocks,
        num_attention_heads=sizes.heads,
        num_kv_heads=sizes.kv_heads,
        # The class rounds its own idea of the width up to a multiple of this one: one multiple, if it is not above.
        multiple_of=sizes.feed_forward,
        ffn_dim_multiplier=min(1.0, sizes.feed_forward / inner),
        cross_attention_dim=sizes.width,  # it attends to the projected condition
        learn_sigma=False,
    )
    # Never used, never stored, and not initialised by the library: a stray NaN would reach clipping and averages.
    model.pad_token = None
    model.caption_projection = PixArtAlphaTextProjection(sizes.context, sizes.width)
    return model


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Own name -> shape of every tensor."""
    with torch.device("meta"):
        model = build(sizes)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def velocity(model: Any, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
    """Features (n, c, rows, columns) at timesteps (n,) in (0, 1000], given the condition (n, tokens, context)."""
    context = model.caption_projection(condition)
    everywhere = torch.ones(context.shape[:2], device=context.device)
    width = model.config.hidden_size // model.config.num_attention_heads
    rotary = _rotary(width, x.shape[-2], x.shape[-1]).to(x.device)
    return model(x, timestep, context, everywhere, rotary, cross_attention_kwargs={}, return_dict=False)[0]


@lru_cache(maxsize=8)
def _rotary(width: int, rows: int, columns: int) -> Tensor:
    """The table for this grid; the official one of 384 x 384 has the same values here."""
    return get_2d_rotary_pos_embed_lumina(width, rows, columns)
