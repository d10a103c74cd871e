"""The BAGEL golden set: where it is, how to read it, and the model built from its checkpoint."""

from __future__ import annotations

from functools import cache

from golden_sets import GoldenSet, image

from srum_bagel.model import Bagel
from srum_bagel.options import Options

SET = GoldenSet("bagel", tolerance=2e-5)  # the goldens' own measure
folder, close = SET.folder, SET.close


@cache
def _model(generation_sides: tuple[int, int], vision_sides: tuple[int, int]) -> Bagel:
    generated = SET.read_json("vae_config")
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

    json, tensors, image = SET.read_json, SET.tensors, staticmethod(image)

    def model(self, generated: dict[str, int] | None = None, understanding: dict[str, int] | None = None) -> Bagel:
        facts = self.json("understanding")
        generated, understanding = generated or facts["vae_transform"], understanding or facts["vit_transform"]
        model = _model((generated["max"], generated["min"]), (understanding["max"], understanding["min"]))
        assert (model.stride, model.eye.patch) == (generated["stride"], understanding["stride"])
        return model
