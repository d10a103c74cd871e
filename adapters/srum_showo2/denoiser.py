"""The module that the trainer wraps: all of Show-o2 except the autoencoder, named as in the checkpoint.

One sequence holds text and image: [start] caption [image start] [time] [image tokens]. Attention is
causal, except that the image block (time and image tokens) attends to all of itself. The reference's tokens after the
block affect nothing and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import frozen
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, SiglipVisionConfig
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from srum_core.models.generation import CACHE
from srum_core.models.tensors import TimeEmbedder, pad_rows
from srum_showo2.flow_head import FinalLayer, HeadBlock


@frozen
class Sizes:
    """The sizes of the model."""

    language: Qwen2Config
    semantic: SiglipVisionConfig
    head: Qwen3Config
    channels: int
    """Channels of the latent."""
    patch: int
    """Latent pixels per side of an image token."""
    side: int
    """Image tokens per side of the position table."""
    tied: bool
    """Whether the file has no separate output matrix."""

    @property
    def cell(self) -> int:
        """Values per latent cell, which is an image token."""
        return self.patch**2 * self.channels


@frozen
class Layout:
    """Positions and mask of rows of text, padded to `text` columns, followed by image blocks."""

    text: int
    positions: Tensor
    """(n, t), positions of the rotary embedding, without padding."""
    mask: Tensor
    """(n, 1, t, t), True where a token attends to another."""

    @classmethod
    def of(cls, lengths: Sequence[int], blocks: Sequence[int], device: torch.device) -> Layout:
        """Lay out rows with these lengths of text and image block (0: none)."""
        text, both = max(lengths), torch.tensor([lengths, blocks], device=device)
        place = torch.arange(text + max(blocks), device=device)
        in_block, column = place >= text, place - text
        positions = torch.where(in_block, both[0, :, None] + column, place)
        real = torch.where(in_block, column < both[1, :, None], place < both[0, :, None])
        return cls(text, positions, attention_mask(real, in_block.expand_as(real).long()))


def attention_mask(real: Tensor, block: Tensor) -> Tensor:
    """Return (n, 1, t, t), True where a token (row) attends to a real one (column) before it or in its image block.

    real   (n, t), False for padding
    block  (n, t), the number of the image block that a token belongs to; 0 = none"""
    place = torch.arange(real.shape[1], device=real.device)
    same_block = (block[:, :, None] == block[:, None, :]) & (block[:, :, None] > 0)
    attends = ((place[:, None] >= place) | same_block) & real[:, None]
    return (attends | (place[:, None] == place))[:, None]  # padding attends to itself: an empty row gives NaN


@frozen(eq=False)
class Prefix:
    """Texts encoded by the language model and the head; image blocks of one size follow."""

    layout: Layout
    language: Any
    head: Any


class PatchEmbedding(nn.Module):
    """A convolution over latent pixels, applied to separate cells."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, cells: Tensor) -> Tensor:
        """(n, t, rows·columns·channels of a cell) -> (n, t, width)."""
        weight = rearrange(self.proj.weight, "o c p q -> o (p q c)")
        return F.linear(cells.to(weight), weight, self.proj.bias)


class ShowO2Denoiser(nn.Module):
    """Velocities of latent grids given captions. `markers` are the ids of a row's start and of an image's start."""

    def __init__(self, sizes: Sizes, markers: tuple[int, int]) -> None:
        super().__init__()
        hidden, width, semantic = sizes.language.hidden_size, sizes.head.hidden_size, sizes.semantic.hidden_size
        self.sizes, self.markers = sizes, markers
        self.showo: Any = Qwen2ForCausalLM(sizes.language)
        if sizes.tied:
            self.showo.lm_head = nn.Identity()  # until `tie`
        self.image_embedder_und = PatchEmbedding(sizes.channels, semantic, sizes.patch)
        self.image_embedder_gen = PatchEmbedding(sizes.channels, hidden, sizes.patch)
        self.position_embedding = nn.Embedding(sizes.side**2, semantic)
        self.und_trans: Any = SiglipEncoder(sizes.semantic)  # type: ignore[arg-type]  # it uses the vision sizes only
        self.fusion_proj = nn.Sequential(
            Qwen2RMSNorm(semantic + hidden, eps=1e-6),
            nn.Linear(semantic + hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
        )
        self.time_embed = TimeEmbedder(width)
        self.time_embed_proj: nn.Module = nn.Identity()
        self.diff_proj: nn.Module = nn.Identity()
        if hidden != width:
            self.time_embed_proj = nn.Linear(width, hidden)
            self.diff_proj = nn.Sequential(nn.Linear(hidden, width), nn.GELU(), nn.Linear(width, width))
        layers = range(sizes.head.num_hidden_layers)
        self.diffusion_head_a = nn.ModuleList(HeadBlock(sizes.head, index) for index in layers)
        self.diffusion_head_b = FinalLayer(width, sizes.cell)
        with torch.device("cpu"):  # tables are not in a checkpoint, and are needed on the meta device too
            self.showo.model.rotary_emb = Qwen2RotaryEmbedding(sizes.language)
            self.head_rotary = Qwen3RotaryEmbedding(sizes.head)

    def tie(self) -> None:
        """After loading, use the embedding as output matrix if the file has none."""
        if self.sizes.tied:
            embedding = self.showo.model.embed_tokens.weight
            with torch.device("meta"):
                self.showo.lm_head = nn.Linear(embedding.shape[1], embedding.shape[0], bias=False)
            self.showo.lm_head.weight = embedding

    @property
    def device(self) -> torch.device:
        return self.position_embedding.weight.device

    def forward(self, noisy: Sequence[Tensor], time: Tensor, condition: Sequence[Tensor]) -> list[Tensor]:
        """Noisy grids (h, w, c), time (n,), condition = caption ids per image (empty: dropped) -> velocities."""
        block, waves = self.embed_images(noisy, time)
        text, lengths = self.embed_captions(condition)
        layout = Layout.of(lengths, [1 + grid.shape[0] * grid.shape[1] for grid in noisy], self.device)
        states = self.read(torch.cat([text, block], dim=1), layout.positions, layout.mask)
        states = self.head(states, waves, layout.text, layout.positions, layout.mask)
        return self.velocities(states[:, layout.text :], waves, [(grid.shape[0], grid.shape[1]) for grid in noisy])

    # ---- embedding --------------------------------------------------------------------------------------------------

    def embed_images(self, grids: Sequence[Tensor], time: Tensor) -> tuple[Tensor, Tensor]:
        """Grids (h, w, c) at their times -> image blocks (n, 1 + most cells, hidden), the time token first, and the
        time embeddings (n, head width)."""
        counts = [grid.shape[0] * grid.shape[1] for grid in grids]
        cells, real = pad_rows([rearrange(grid, "h w c -> (h w) c").to(self.device) for grid in grids])
        places, _ = pad_rows([self.positions(grid.shape[0], grid.shape[1]) for grid in grids])
        states = self.image_embedder_und(cells)
        mask = None if len(set(counts)) == 1 else real[:, None, None, :]
        states = self.und_trans(inputs_embeds=states + places.to(states), attention_mask=mask).last_hidden_state
        tokens = self.fusion_proj(torch.cat([states, self.image_embedder_gen(cells)], dim=-1))
        waves = self.time_embed(1 - time.to(self.device))  # the network's time runs from noise (0) to clean (1)
        return torch.cat([self.time_embed_proj(waves)[:, None].to(tokens), tokens], dim=1), waves

    def positions(self, rows: int, columns: int) -> Tensor:
        """Resize the table to a grid, (rows · columns, width); at its own size it does not change."""
        table = rearrange(self.position_embedding.weight, "(h w) c -> 1 c h w", h=self.sizes.side)
        resized = F.interpolate(table.float(), (rows, columns), mode="bicubic", align_corners=False)
        return rearrange(resized, "1 c h w -> (h w) c")

    def embed_captions(self, captions: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Return the embeddings before each image block, padded on the right, (n, t, hidden), and their lengths."""
        start, image = torch.tensor(self.markers, device=self.device).split(1)
        ids, _ = pad_rows([torch.cat([start, caption.to(self.device), image]) for caption in captions])
        return self.showo.model.embed_tokens(ids), [len(caption) + 2 for caption in captions]

    # ---- the two transformers ----------------------------------------------------------------------------------------

    def read(self, embeds: Tensor, positions: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
        """Return the language model's hidden states after its last norm, (n, t, hidden)."""
        arguments = {"use_cache": cache is not None, CACHE: cache}
        return self.showo.model(
            inputs_embeds=embeds, position_ids=positions, attention_mask=mask, **arguments
        ).last_hidden_state

    def head(
        self, states: Tensor, waves: Tensor | None, text: int, positions: Tensor, mask: Tensor, cache: Any = None
    ) -> Tensor:
        """Return the flow head's hidden states, (n, t, width), of `text` tokens and the image blocks after them."""
        x = self.diff_proj(states)
        angles = self.head_rotary(x, positions)
        for block in self.diffusion_head_a:
            x = block(x, waves, text, angles, mask, cache)
        return x

    def velocities(self, block: Tensor, waves: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The head's states of image blocks (n, 1 + most cells, width) -> noise - clean, a grid (h, w, c) each."""
        out = -self.diffusion_head_b(block[:, 1:], waves)  # the network predicts clean - noise
        return [
            self.assemble(row[: rows * columns], rows, columns) for row, (rows, columns) in zip(out, sizes, strict=True)
        ]

    def assemble(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """Assemble the outputs of image tokens, (rows · columns, c), to a grid of cells (rows, columns, c).

        A token's input is a square of latent pixels; its output is equally many consecutive pixels in row order."""
        patch = self.sizes.patch
        return rearrange(
            tokens.reshape(-1, self.sizes.channels), "(h p w q) c -> h w (p q c)", h=rows, w=columns, p=patch, q=patch
        )

    # ---- sampling ----------------------------------------------------------------------------------------------------

    def prefix(self, captions: Sequence[Tensor], size: tuple[int, int]) -> Prefix:
        """Encode captions once for all steps: tokens before the image block do not attend to the image or the time."""
        text, lengths = self.embed_captions(captions)
        layout = Layout.of(lengths, [1 + size[0] * size[1]] * len(lengths), self.device)
        positions, mask = layout.positions[:, : layout.text], layout.mask[:, :, : layout.text, : layout.text]
        prefix = Prefix(layout, DynamicCache(), DynamicCache())
        states = self.read(text, positions, mask, prefix.language)
        self.head(states, None, layout.text, positions, mask, prefix.head)
        return prefix

    def step(self, prefix: Prefix, block: Tensor, waves: Tensor, size: tuple[int, int]) -> Tensor:
        """Velocities (n, rows, columns, c) of image blocks after a prefix, which does not change."""
        text = prefix.layout.text
        positions, mask = prefix.layout.positions[:, text:], prefix.layout.mask[:, :, text:]
        states = self.read(block, positions, mask, prefix.language)
        states = self.head(states, waves, 0, positions, mask, prefix.head)
        for cache in (prefix.language, prefix.head):
            cache.crop(-block.shape[1])
        return torch.stack(self.velocities(states, waves, [size] * len(block)))
