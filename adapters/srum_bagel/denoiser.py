"""The module that the trainer wraps: everything that takes part in generation, named as in the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import Qwen2Config

from srum_bagel.attention import GENERATION, Context, Joint, PositionTable, Segment, cut, rope
from srum_bagel.layers import MoTLanguageModel
from srum_core.models.tensors import TimeEmbedder, pad_rows


class BagelDenoiser(nn.Module):
    """Velocities of latent grids given text. `markers` are the ids of the start and end of an image."""

    def __init__(self, config: Qwen2Config, cell: int, side: int, markers: tuple[int, int], theta: float) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.side, self.markers, self.theta = side, markers, theta
        self.language_model = MoTLanguageModel(config)
        self.time_embedder = TimeEmbedder(hidden)
        self.vae2llm, self.llm2vae = nn.Linear(cell, hidden), nn.Linear(hidden, cell)
        self.latent_pos_embed = PositionTable(side, hidden)

    @property
    def device(self) -> torch.device:
        return self.vae2llm.weight.device

    def forward(self, noisy: Sequence[Tensor], time: Tensor, condition: Sequence[Tensor]) -> list[Tensor]:
        """Noisy grids (h, w, c), time (n,), condition = caption ids per image (empty: dropped) -> velocities."""
        _, gen = self.hidden(noisy, time, condition, text=False)
        return [
            rearrange(row[: grid.shape[0] * grid.shape[1]], "(h w) c -> h w c", h=grid.shape[0])
            for row, grid in zip(self.llm2vae(gen), noisy, strict=True)
        ]

    def hidden(
        self, noisy: Sequence[Tensor], time: Tensor, condition: Sequence[Tensor], text: bool = True
    ) -> tuple[Tensor | None, Tensor]:
        """Final hidden states: (n, 2 + longest text, hidden), the two markers first, if `text` is wanted; and
        (n, most cells, hidden)."""
        ids, valid_text = pad_rows([each.to(self.device) for each in condition])
        lengths = valid_text.sum(dim=1)
        cells, valid_cells = self.embed_cells(noisy, time.to(self.device))
        # Text sees only text, so where its weights are frozen nothing that is trained reaches it: it gets no graph.
        apart = not (torch.is_grad_enabled() and self._teaches_text())
        plan = Joint(
            self.rope(torch.arange(ids.shape[1], device=self.device).expand(len(ids), -1)),
            self.rope(lengths[:, None].expand(-1, 2 + cells.shape[1])),
            valid_text,
            valid_cells,
            apart,
            text,
        )
        words, markers = self.embed_text(ids), self.embed_markers(len(ids))
        plain = [words, markers] if apart else [torch.cat([markers, words], dim=1)]
        *plain, gen = self.language_model.model([*plain, cells], plan)
        if not text:
            return None, gen
        return (torch.cat(plain[::-1], dim=1) if apart else plain[0]), gen

    def _teaches_text(self) -> bool:
        """Whether anything that reads text is trained."""
        return any(
            weight.requires_grad
            for name, weight in self.language_model.model.named_parameters()
            if GENERATION not in name
        )

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return rope(positions, self.language_model.head, self.theta)

    def embed_text(self, ids: Tensor) -> Tensor:
        return self.language_model.model.embed_tokens(ids)

    def embed_markers(self, rows: int) -> Tensor:
        return self.embed_text(torch.tensor(self.markers, device=self.device)).expand(rows, -1, -1)

    def embed_cells(self, grids: Sequence[Tensor], time: Tensor) -> tuple[Tensor, Tensor]:
        """Grids (h, w, c) at their times -> (n, most cells, hidden) and which are real."""
        x, valid = pad_rows([rearrange(grid, "h w c -> (h w) c").to(self.vae2llm.weight) for grid in grids])
        places, _ = pad_rows([self.places(grid.shape[0], grid.shape[1]) for grid in grids])
        return self.vae2llm(x) + self.time_embedder(time)[:, None] + self.latent_pos_embed.pos_embed[places], valid

    def places(self, rows: int, columns: int) -> Tensor:
        """Rows of the position table for a grid. Raises CheckpointError for one beyond the table."""
        what = f"A latent grid of {rows} x {columns} cells"
        return self.latent_pos_embed.places(rows, columns, what, "adapter.size, adapter.generation_sides")

    # ---- reading, piece by piece (inference) ------------------------------------------------------------------------

    def context(self, rows: int) -> Context:
        config = self.language_model.config
        blocks: Any = self.language_model.model.layers
        layers = [layer.input_layernorm.weight.device for layer in blocks]
        return Context.empty(
            layers, rows, config.num_key_value_heads or 1, self.language_model.head, self.language_model.dtype,
            self.device,
        )  # fmt: skip

    def read_text(self, context: Context, ids: Sequence[Tensor], states: bool = False) -> Any:
        """Append one text per row, causal; with `states`, return its hidden states (n, longest, hidden)."""
        tokens, valid = pad_rows([row.to(self.device) for row in ids])
        positions = context.position[:, None] + torch.arange(tokens.shape[1], device=self.device)
        plan = Segment(context, [("", self.rope(positions))], valid, True, [states])
        (hidden,) = self.language_model.model([self.embed_text(tokens)], plan)
        plan.keep(valid.sum(dim=1))
        return hidden

    def read_image(self, context: Context, tokens: Sequence[Tensor]) -> None:
        """Append one image per row for understanding: markers and tower tokens (t, hidden), at one rotary position."""
        start, end = self.embed_markers(1)[0].unbind(0)
        x, valid = pad_rows([torch.cat([start[None], row.to(start), end[None]]) for row in tokens])
        angles = self.rope(context.position[:, None].expand(-1, x.shape[1]))
        plan = Segment(context, [("", angles)], valid, False, [False])
        self.language_model.model([x], plan)
        plan.keep(torch.ones_like(context.position))

    def block(self, context: Context, grids: Sequence[Tensor]) -> Segment:
        """Reserve space for grids of these sizes after the context, for `velocity`; used by every step."""
        sizes = [2 + grid.shape[0] * grid.shape[1] for grid in grids]
        valid = torch.arange(max(sizes), device=self.device) < torch.tensor(sizes, device=self.device)[:, None]
        markers, cells = cut(self.rope(context.position[:, None].expand(-1, valid.shape[1])), 2)
        return Segment(context, [("", markers), (GENERATION, cells)], valid, False, [False, True])

    def velocity(self, block: Segment, x: Sequence[Tensor], time: Tensor) -> Tensor:
        """Velocities of the cells being generated, (n, most cells, c); the context stays as it is."""
        cells, _ = self.embed_cells(x, time)
        return self.llm2vae(self.language_model.model([self.embed_markers(len(x)), cells], block)[1])
