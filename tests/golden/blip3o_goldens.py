"""The BLIP3-o golden set: where it is, how to read it, and the model built from its checkpoint."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from srum_blip3o.model import Blip3o
from srum_blip3o.options import Options, Sampling

TOLERANCE = 1e-4
"""Absolute; what the set itself calls generous."""


def folder() -> Path:
    return Path(os.environ.get("SRUM_GOLDENS") or Path(__file__).parent) / "blip3o"


def close(ours: Tensor, expected: Tensor, what: str = "", tolerance: float = TOLERANCE) -> None:
    assert tuple(ours.shape) == tuple(expected.shape), f"{what}: {tuple(ours.shape)} instead of {tuple(expected.shape)}"
    error = (ours.detach().double() - expected.double()).abs().max() if ours.numel() else torch.zeros(())
    assert error <= tolerance, f"{what}: off by {error:.2e}, largest entry {expected.abs().max():.3g}"


@cache
def read_json(name: str) -> Any:
    return json.loads((folder() / name).read_text())


@cache
def tensors(name: str) -> dict[str, Tensor]:
    return load_file(folder() / f"{name}.safetensors")


def image(name: str) -> Image.Image:
    return Image.open(folder() / "images" / f"{name}.png")


@cache
def model(train_queries: bool = True) -> Blip3o:
    """The checkpoint with the settings that the set's files state."""
    seen, generated = read_json("understanding.json")["image_processor"], read_json("decoder.json")
    sampling = Sampling(
        guidance=read_json("sampling.json")["guidance_scale"],
        decoder_steps=generated["num_inference_steps"],
        decoder_guidance=generated["guidance_scale"],
    )
    return Blip3o(
        Options(
            checkpoint=str(folder() / "checkpoint"),
            device="cpu",
            dtype="float32",
            offload="none",
            train_queries=train_queries,
            size=(generated["width"], generated["height"]),
            sampling=sampling,
            vision_pixels=(seen["min_pixels"], seen["max_pixels"]),
        )
    )


def need() -> None:
    """Fail (or skip, where no set was asked for) if there is no BLIP3-o set."""
    if not folder().is_dir():
        message = f"{folder()} is not there (from $SRUM_GOLDENS, default tests/golden)."
        (pytest.fail if "SRUM_GOLDENS" in os.environ else pytest.skip)(message)
