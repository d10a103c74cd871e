"""The module that the trainer wraps: the head and, before it, the learned queries. Named as stored, less `model.`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from srum_blip3o import head
from srum_blip3o.reader import Reader
from srum_core.errors import TrainingError

Told = Tensor | None
"""What a picture is drawn from: a caption's ids (long), its condition (queries, hidden), or nothing."""


class Denoiser(nn.Module):
    """Velocities of feature grids given captions."""

    def __init__(self, sizes: head.Sizes, queries: int, reader: Reader, train_queries: bool) -> None:
        super().__init__()
        self.reader, self.train_queries = reader, train_queries
        self.latent_queries = nn.Parameter(torch.zeros(1, queries, sizes.context))
        self.dit = nn.Module()
        self.dit.model = head.build(sizes)

    @property
    def head(self) -> Any:
        return self.dit.model

    @property
    def device(self) -> torch.device:
        return self.latent_queries.device

    def forward(self, noisy: Sequence[Tensor], time: Tensor, condition: Sequence[Told]) -> list[Tensor]:
        """Noisy grids (h, w, c), all of one size; time (n,) in [0, 1]; captions -> velocities of the same shapes."""
        shapes = {tuple(grid.shape) for grid in noisy}
        if len(shapes) != 1:
            raise TrainingError(
                f"BLIP3-o's features have one grid for all pictures; latents of {sorted(shapes)} cannot share a batch."
            )
        x = rearrange(torch.stack(list(noisy)), "n h w c -> n c h w").to(self.device)
        velocity = self.velocity(x, 1000 * time.to(self.device).float(), self.conditions(condition))
        return list(rearrange(velocity, "n c h w -> n h w c"))

    def conditions(self, told: Sequence[Told]) -> Tensor:
        """(n, queries, hidden). Who is told nothing gets zeros; the queries take part all the same (with gradient 0),
        because every step must use every trained parameter."""
        nothing = 0 * self.latent_queries if self.train_queries else torch.zeros_like(self.latent_queries)
        out = nothing.expand(len(told), -1, -1)
        read = [place for place, each in enumerate(told) if each is not None and not each.is_floating_point()]
        if read:
            ids = [told[place].tolist() for place in read]  # type: ignore[union-attr]
            out = _put(out, read, self.reader.states(self.latent_queries, ids))
        known = [place for place, each in enumerate(told) if each is not None and each.is_floating_point()]
        if known:
            out = _put(out, known, torch.stack([told[place] for place in known]))  # type: ignore[misc]
        return out

    def velocity(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """x (n, c, h, w), timesteps (n,) in (0, 1000], condition (n, queries, hidden)."""
        weight = self.head.patch_embedder.proj.weight
        return head.velocity(self.head, x.to(weight), timestep, condition.to(weight))


def _put(rows: Tensor, places: Sequence[int], new: Tensor) -> Tensor:
    return rows.index_copy(0, torch.tensor(places, device=rows.device), new.to(rows))
