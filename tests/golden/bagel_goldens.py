"""The BAGEL golden set: where it is, how to read it, and the model built from its checkpoint."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from near import off
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from srum_bagel.model import Bagel
from srum_bagel.options import Options


def folder() -> Path:
    return Path(os.environ.get("SRUM_GOLDENS", Path(__file__).parent)) / "bagel"


def close(ours: Tensor, expected: Tensor, what: str = "", tolerance: float = 2e-5) -> None:
    """Largest difference relative to the largest entry, the goldens' own measure."""
    error = off(ours.double(), expected.double())
    assert error <= tolerance, f"{what}: off by {error:.2e} of the largest entry"


@cache
def _model(generation_sides: tuple[int, int], vision_sides: tuple[int, int]) -> Bagel:
    generated = json.loads((folder() / "vae_config.json").read_text())
    return Bagel(
        Options(
            checkpoint=str(folder() / "checkpoint"),
            device="cpu",
            dtype="float32",
            generation_sides=generation_sides,
            vision_sides=vision_sides,
            latent_scale=generated["scale_factor"],
            latent_shift=generated["shift_factor"],
        )
    )


class Goldens:
    """Reads files of the set; `model` is the checkpoint with the image sizes a file states."""

    def has(self, name: str) -> bool:
        return (folder() / name).is_file()

    def json(self, name: str) -> Any:
        return json.loads((folder() / name).read_text())

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(folder() / name)

    def image(self, levels: Tensor) -> Image.Image:
        """(h, w, 3) uint8 -> image."""
        return Image.fromarray(np.ascontiguousarray(levels.numpy()))

    def model(self, generated: dict[str, int] | None = None, seen: dict[str, int] | None = None) -> Bagel:
        facts = self.json("understanding.json")
        generated, seen = generated or facts["vae_transform"], seen or facts["vit_transform"]
        model = _model((generated["max"], generated["min"]), (seen["max"], seen["min"]))
        assert (model.stride, model.eye.patch) == (generated["stride"], seen["stride"])
        return model
