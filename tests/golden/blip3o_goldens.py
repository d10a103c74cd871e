"""The BLIP3-o golden set: where it is, how to read it, and the model built from its checkpoint."""

from __future__ import annotations

from functools import cache

import torch
from golden_sets import GoldenSet
from PIL import Image
from torch import Tensor

from srum_blip3o.model import Blip3o
from srum_blip3o.options import Options, Sampling

TOLERANCE = 1e-4
"""Absolute; what the set itself calls generous."""


SET = GoldenSet("blip3o", TOLERANCE)
folder, need, read_json, tensors = SET.folder, SET.need, SET.read_json, SET.tensors


def close(ours: Tensor, expected: Tensor, message: str = "", tolerance: float = TOLERANCE) -> None:
    assert ours.shape == expected.shape, f"{message}: {tuple(ours.shape)} instead of {tuple(expected.shape)}"
    error = (ours.detach().double() - expected.double()).abs().max() if ours.numel() else torch.zeros(())
    assert error <= tolerance, f"{message}: off by {error:.2e}, largest entry {expected.abs().max():.3g}"


def image(name: str) -> Image.Image:
    return Image.open(folder() / "images" / f"{name}.png")


@cache
def model(train_queries: bool = True) -> Blip3o:
    """The checkpoint with the settings that the set's files state."""
    understanding, generated = read_json("understanding")["image_processor"], read_json("decoder")
    sampling = Sampling(
        guidance=read_json("sampling")["guidance_scale"],
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
            vision_pixels=(understanding["min_pixels"], understanding["max_pixels"]),
        )
    )
