"""Answer questions about images. The layers that generate encode an image's clean latent once for all questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import frozen
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from srum_core.models.generation import CACHE
from srum_core.models.tensors import pad_rows
from srum_showo2.denoiser import ShowO2Denoiser, attention_mask


@frozen(eq=False)
class View:
    """Images and the ids before them as input of the language model, one row per image."""

    embeds: Tensor
    """(n, t, hidden)."""
    real: Tensor
    """(n, t), False for padding."""
    block: Tensor
    """(n, t), 1 in the image block, which attends to all of itself."""

    @classmethod
    def of(
        cls, denoiser: ShowO2Denoiser, frame: tuple[Sequence[int], int], grids: Sequence[Tensor], late: bool = False
    ) -> View:
        """Embed latent grids (h, w, c), up to the token that ends the image.

        frame  ids before an image, and the one that ends it (`Words.frame`)
        late   the block excludes the time token and includes the end of the image, as in the published script"""
        images, _ = denoiser.embed_images(grids, torch.zeros(len(grids)))
        embed = denoiser.showo.model.embed_tokens
        before, end = (embed(torch.tensor(ids, device=denoiser.device)) for ids in (frame[0], [frame[1]]))
        sizes = [1 + grid.shape[0] * grid.shape[1] for grid in grids]
        rows = [torch.cat([before, image[:size].to(before), end]) for image, size in zip(images, sizes, strict=True)]
        embeds, real = pad_rows(rows)
        start = len(before) + late
        place = torch.arange(embeds.shape[1], device=denoiser.device)
        stop = start + torch.tensor(sizes, device=denoiser.device)[:, None]
        return cls(embeds, real, ((place >= start) & (place < stop)).long())

    @classmethod
    def nothing(cls, denoiser: ShowO2Denoiser, rows: int) -> View:
        """Return rows without an image; the ids before it are then part of the question."""
        none = torch.zeros(rows, 0, device=denoiser.device)
        return cls(none[..., None].expand(-1, -1, denoiser.sizes.language.hidden_size), none.bool(), none.long())


def ask(
    denoiser: ShowO2Denoiser, view: View, rows: Sequence[int], questions: Sequence[Sequence[int]]
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Encode the view, and each question's ids but the last; `rows` names the row of the view for each question.

    Return arguments for transformers' `generate` to continue, and the hidden states of view and questions."""
    cache, device = DynamicCache(), denoiser.device
    longest, columns = max(map(len, questions)), view.real.shape[1]
    ids = torch.tensor([[0] * (longest - len(row)) + [*row] for row in questions], device=device)
    real_ids = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in questions], device=device).bool()
    states = view.embeds
    if columns:
        states = denoiser.read(states, places(view.real), attention_mask(view.real, view.block), cache)
        cache.batch_select_indices(torch.tensor(rows))  # on the CPU: layers may be on several devices
    real = torch.cat([view.real[list(rows)] if columns else view.real[: len(ids)], real_ids], dim=1)
    mask = attention_mask(real, torch.zeros_like(real).long())
    new = slice(columns, -1)
    words = denoiser.showo.model.embed_tokens(ids[:, :-1])
    received = denoiser.read(words, places(real)[:, new], mask[:, :, new, :-1], cache)
    before = torch.zeros_like(real[:, :columns]).long()  # never embedded: it is in the cache
    arguments = {"input_ids": torch.cat([before, ids], dim=1), "attention_mask": real.long(), CACHE: cache}
    return arguments, states, received


def places(real: Tensor) -> Tensor:
    """Return (n, t), 0, 1, 2, … over the real tokens of each row."""
    return (real.long().cumsum(dim=1) - 1).clamp_min(0)


# ---- images ----------------------------------------------------------------------------------------------------------


def padded(image: Image.Image, side: int) -> Image.Image:
    """Resize the long side to `side` pixels, and center the image on a black square; the short side is rounded up."""
    longest = max(image.size)
    width, height = (-(-each * side // longest) for each in image.size)
    square = Image.new("RGB", (side, side))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(resized, ((side - width) // 2, (side - height) // 2))
    return square


def covering(size: tuple[int, int], target: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the (width, height) at which an image of `size` just covers `target`, and the (left, top) of the crop from
    its middle."""
    (width, height), (w, h) = size, target
    new = (w, max(h, height * w // width)) if width * h <= height * w else (max(w, width * h // height), h)
    return new, (round((new[0] - w) / 2), round((new[1] - h) / 2))


def cropped(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """Resize and crop an image to (width, height) `target`: the largest part with this aspect ratio, in the middle."""
    new, (left, top) = covering(image.size, target)
    resized = image.resize(new, Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + target[0], top + target[1]))
