"""The OmniGen2 golden set: where it is, how to read it, and the model built from its checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from near import off
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from srum_core.models.tensors import patchify, unpatchify
from srum_omnigen2.denoiser import Denoiser
from srum_omnigen2.model import OmniGen2
from srum_omnigen2.options import Options

TOLERANCE = 1e-4
"""Of the largest entry; what the set itself calls generous."""


def folder() -> Path:
    return Path(os.environ.get("SRUM_GOLDENS") or Path(__file__).parent) / "omnigen2"


def close(ours: Tensor, expected: Tensor, what: str = "", tolerance: float = TOLERANCE) -> None:
    error = off(ours.detach().float(), expected.float())
    assert error <= tolerance, f"{what}: off by {error:.2e} of the largest entry"


@cache
def read_json(name: str) -> Any:
    return json.loads((folder() / name).read_text())


@cache
def tensors(name: str) -> dict[str, Tensor]:
    return load_file(folder() / f"{name}.safetensors")


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


def need() -> None:
    """Fail (or skip, where no set was asked for) if there is no OmniGen2 set."""
    if not folder().is_dir():
        message = f"{folder()} is not there (from $SRUM_GOLDENS, default tests/golden)."
        (pytest.fail if "SRUM_GOLDENS" in os.environ else pytest.skip)(message)
