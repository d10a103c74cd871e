"""The OmniGen2 golden set: where it is, how to read it, and the model built from its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from einops import rearrange
from golden_sets import GoldenSet
from PIL import Image
from torch import Tensor

from srum_core.models.tensors import patchify, unpatchify
from srum_omnigen2.denoiser import Denoiser
from srum_omnigen2.model import OmniGen2
from srum_omnigen2.options import Options

SET = GoldenSet("omnigen2", tolerance=1e-4)  # what the set itself calls generous
folder, need, read_json, tensors, close = SET.folder, SET.need, SET.read_json, SET.tensors, SET.close


def image(name: str) -> Image.Image:
    return Image.open(folder() / "images" / name).convert("RGB")


@cache
def model() -> OmniGen2:
    """The checkpoint in float32, all parts kept."""
    return OmniGen2(Options(checkpoint=str(folder() / "checkpoint"), device="cpu", dtype="float32", offload="none"))


@cache
def with_references() -> Denoiser:
    """The whole transformer, with the weights for reference images."""
    with torch.device("meta"):
        denoiser = Denoiser(model().configs.transformer, references=True)
    model().checkpoint.transformer.load([denoiser], model().device, torch.float32)
    return denoiser


def grid(latent: Tensor) -> Tensor:
    """(c, rows, columns) of latent cells -> tokens (rows, columns, c)."""
    return patchify(latent[None], model().configs.transformer.patch_size)[0]


def latent(tokens: Tensor) -> Tensor:
    return unpatchify(tokens[None], model().configs.transformer.patch_size)[0]


def per_token(values: Tensor) -> Tensor:
    """Mean of every latent cell's error over the square of a token."""
    patch = model().configs.transformer.patch_size
    return rearrange(values, "(h p) (w q) -> h w (p q)", p=patch, q=patch).mean(-1)


def states(texts: Sequence[str | None]) -> list[Tensor]:
    return model().read(texts)


def user_text(filled: str) -> str:
    """What the user said in a text in the chat format."""
    return filled.split("<|im_start|>user\n")[1].split("<|im_end|>")[0].split("<|vision_end|>")[-1]
