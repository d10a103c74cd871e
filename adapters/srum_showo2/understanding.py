"""Answer questions about images: an image's clean latent is encoded by the layers that generate, once for all its
questions."""

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
    """Images with the ids before them, a row each, as input of the language model."""

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
        """Latent grids (h, w, c), up to the end of the image.

        frame  ids before an image, and of its end (`Words.frame`)
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
        """No image; the ids before it are then part of the question."""
        none = torch.zeros(rows, 0, device=denoiser.device)
        return cls(none[..., None].expand(-1, -1, denoiser.sizes.language.hidden_size), none.bool(), none.long())


def ask(
    denoiser: ShowO2Denoiser, view: View, which: Sequence[int], questions: Sequence[Sequence[int]]
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Encode the view, and of each question's ids (about its row `which`) all but the last.

    Return the arguments with which transformers' `generate` continues, and the hidden states of view and questions."""
    cache, device = DynamicCache(), denoiser.device
    longest, columns = max(map(len, questions)), view.real.shape[1]
    ids = torch.tensor([[0] * (longest - len(row)) + [*row] for row in questions], device=device)
    real_ids = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in questions], device=device).bool()
    seen = view.embeds
    if columns:
        seen = denoiser.read(seen, places(view.real), attention_mask(view.real, view.block), cache)
        cache.batch_select_indices(torch.tensor(which))  # on the CPU: layers may be on several devices
    real = torch.cat([view.real[list(which)] if columns else view.real[: len(ids)], real_ids], dim=1)
    mask = attention_mask(real, torch.zeros_like(real).long())
    new = slice(columns, -1)
    words = denoiser.showo.model.embed_tokens(ids[:, :-1])
    received = denoiser.read(words, places(real)[:, new], mask[:, :, new, :-1], cache)
    before = torch.zeros_like(real[:, :columns]).long()  # never embedded: it is in the cache
    arguments = {"input_ids": torch.cat([before, ids], dim=1), "attention_mask": real.long(), CACHE: cache}
    return arguments, seen, received


def places(real: Tensor) -> Tensor:
    """(n, t), 0, 1, 2, … over the real tokens of each row."""
    return (real.long().cumsum(dim=1) - 1).clamp_min(0)


# ---- images ----------------------------------------------------------------------------------------------------------


def padded(image: Image.Image, side: int) -> Image.Image:
    """The long side to `side` pixels, the short one rounded up, in the middle of a black square."""
    longest = max(image.size)
    width, height = (-(-each * side // longest) for each in image.size)
    whole = Image.new("RGB", (side, side))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    whole.paste(resized, ((side - width) // 2, (side - height) // 2))
    return whole


def covering(size: tuple[int, int], target: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) that an image of `size` is resized to, so that it just covers `wanted`, and the (left, top) of
    the crop from its middle."""
    (width, height), (w, h) = size, target
    new = (w, max(h, height * w // width)) if width * h <= height * w else (max(w, width * h // height), h)
    return new, (round((new[0] - w) / 2), round((new[1] - h) / 2))


def cropped(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """The middle of the image at (width, height) `wanted`, the largest part with this aspect ratio."""
    new, (left, top) = covering(image.size, target)
    whole = image.resize(new, Image.Resampling.BICUBIC)
    return whole.crop((left, top, left + target[0], top + target[1]))
