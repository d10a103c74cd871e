"""The trained part, and sampling with it: the learned queries, and the diffusion head (diffusers' Lumina NextDiT over
feature tokens, behind the official model's projection). The head's configuration is not stored; all sizes are read from
the weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from attrs import frozen
from diffusers import FlowMatchEulerDiscreteScheduler, LuminaNextDiT2DModel
from diffusers.models.embeddings import PixArtAlphaTextProjection, get_2d_rotary_pos_embed_lumina
from einops import rearrange
from torch import Tensor, nn

from srum_blip3o.options import Sampling
from srum_blip3o.text_encoder import Reader
from srum_core.errors import TrainingError

Condition = Tensor | None
"""The condition of an image: a caption's ids (long), its hidden states (queries, hidden), or None."""
Watch = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Called at each step with the state, the head's timestep, and its two velocities: unconditional first."""


@frozen
class Sizes:
    """The sizes of a head."""

    context: int
    """Width of the condition: the language model's."""
    width: int
    channels: int
    blocks: int
    heads: int
    kv_heads: int
    feed_forward: int
    """4864 or 7168 in the published checkpoints, depending on the library used in training."""


def read_sizes(shapes: Mapping[str, Sequence[int]]) -> Sizes:
    """Read the sizes from the head's names and shapes. A later comparison with `shapes` shows missing tensors."""
    width, channels = shapes["patch_embedder.proj.weight"]
    heads = shapes["layers.0.gate"][0]
    keys = shapes.get("layers.0.attn1.to_k.weight", (width,))[0]
    numbers = {int(match[1]) for name in shapes if (match := re.match(r"layers\.(\d+)\.", name))}
    return Sizes(
        context=shapes.get("caption_projection.linear_1.weight", (width, width))[1],
        width=width,
        channels=channels,
        blocks=len(numbers),  # the comparison shows gaps too
        heads=heads,
        kv_heads=keys * heads // width,
        feed_forward=shapes.get("layers.0.feed_forward.linear_1.weight", (width,))[0],
    )


def build(sizes: Sizes) -> Any:
    """Create the head with random weights (or none, on torch's meta device), all names as stored."""
    inner = int(4 * 2 * sizes.width / 3)
    model: Any = LuminaNextDiT2DModel(
        sample_size=1,  # not used by the model
        patch_size=1,
        in_channels=sizes.channels,
        hidden_size=sizes.width,
        num_layers=sizes.blocks,
        num_attention_heads=sizes.heads,
        num_kv_heads=sizes.kv_heads,
        # The class rounds a width up to a multiple of this; the factor below makes it no larger, so it is exactly this.
        multiple_of=sizes.feed_forward,
        ffn_dim_multiplier=min(1.0, sizes.feed_forward / inner),
        cross_attention_dim=sizes.width,  # it attends to the projected condition
        learn_sigma=False,
    )
    # Unused, not stored, and not initialised by the library: a NaN in it would reach clipping and averages.
    model.pad_token = None
    model.caption_projection = PixArtAlphaTextProjection(sizes.context, sizes.width)
    return model


@lru_cache(maxsize=8)
def _rotary(width: int, rows: int, columns: int) -> Tensor:
    """Return the rotary table of this grid; it equals that part of the official 384 x 384 table."""
    return get_2d_rotary_pos_embed_lumina(width, rows, columns)


class Denoiser(nn.Module):
    """Velocities of feature grids given captions."""

    def __init__(self, sizes: Sizes, queries: int, reader: Reader, train_queries: bool) -> None:
        super().__init__()
        self.reader, self.train_queries = reader, train_queries
        self.latent_queries = nn.Parameter(torch.zeros(1, queries, sizes.context))
        self.dit = nn.Module()
        self.dit.model = build(sizes)

    @property
    def head(self) -> Any:
        return self.dit.model

    @property
    def device(self) -> torch.device:
        return self.latent_queries.device

    def forward(self, noisy: Sequence[Tensor], time: Tensor, condition: Sequence[Condition]) -> list[Tensor]:
        """Noisy grids (h, w, c), all of one size; time (n,) in [0, 1]; captions -> velocities of the same shapes."""
        shapes = {tuple(grid.shape) for grid in noisy}
        if len(shapes) != 1:
            raise TrainingError(
                f"BLIP3-o's features have one grid for all images; latents of {sorted(shapes)} cannot share a batch."
            )
        x = rearrange(torch.stack(list(noisy)), "n h w c -> n c h w").to(self.device)
        velocity = self.velocity(x, 1000 * time.to(self.device).float(), self.conditions(condition))
        return list(rearrange(velocity, "n c h w -> n h w c"))

    def conditions(self, conditions: Sequence[Condition]) -> Tensor:
        """Return (n, queries, hidden); zeros for no condition. Queries then take part with gradient 0, because every
        step must use every trained parameter."""
        nothing = 0 * self.latent_queries if self.train_queries else torch.zeros_like(self.latent_queries)
        out = nothing.expand(len(conditions), -1, -1)
        captions = [i for i, each in enumerate(conditions) if each is not None and not each.is_floating_point()]
        if captions:
            ids = [conditions[i].tolist() for i in captions]  # type: ignore[union-attr]
            out = _put(out, captions, self.reader.states(self.latent_queries, ids))
        states = [i for i, each in enumerate(conditions) if each is not None and each.is_floating_point()]
        if states:
            out = _put(out, states, torch.stack([conditions[i] for i in states]))  # type: ignore[misc]
        return out

    def velocity(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Features (n, c, rows, columns) at timesteps (n,) in (0, 1000], given the condition (n, queries, hidden)."""
        model, weight = self.head, self.head.patch_embedder.proj.weight
        context = model.caption_projection(condition.to(weight))
        everywhere = torch.ones(context.shape[:2], device=context.device)
        width = model.config.hidden_size // model.config.num_attention_heads
        rotary = _rotary(width, x.shape[-2], x.shape[-1]).to(x.device)
        out = model(x.to(weight), timestep, context, everywhere, rotary, cross_attention_kwargs={}, return_dict=False)
        return out[0]


def _put(rows: Tensor, places: Sequence[int], new: Tensor) -> Tensor:
    return rows.index_copy(0, torch.tensor(places, device=rows.device), new.to(rows))


# ---- sampling --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def sample(
    denoiser: Denoiser, condition: Tensor, noise: Tensor, sampling: Sampling, watch: Watch | None = None
) -> Tensor:
    """Conditions (n, queries, hidden) and noise (n, c, h, w) -> features (n, c, h, w), float32."""
    scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=sampling.shift)
    steps = sampling.steps
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist(), device=condition.device)
    both = torch.cat([torch.zeros_like(condition), condition])
    x = noise.to(condition.device, torch.float32)
    for time in scheduler.timesteps:
        timestep = time.long().float() if sampling.whole_timesteps else time.float()
        velocities = denoiser.velocity(x.repeat(2, 1, 1, 1), timestep.expand(len(both)), both).float()
        without, conditional = velocities.chunk(2)
        if watch is not None:
            watch(x, timestep, without, conditional)
        guided = without + sampling.guidance * (conditional - without)
        x = scheduler.step(guided, time, x, return_dict=False)[0]
    return x
